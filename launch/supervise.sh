# shellcheck shell=bash
# What the launch scripts share: running a job that may be asked to stop, and telling why it ended.
# To be sourced.
#
#   supervise COMMAND...   runs it; SIGTERM, SIGINT, SIGHUP and SIGUSR1 to the script reach it as
#                          SIGUSR1, which makes a run save and stop (a second one: stop at once)
#   status                 its exit status
#   stop_requested         1 once such a signal has come

status=0
stop_requested=0
supervised_pid=
interrupted=0

pass_on_signal() {
  interrupted=1
  stop_requested=1
  if [[ -n $supervised_pid ]]; then kill -USR1 "$supervised_pid" 2>/dev/null || true; fi
}

trap_signals() { trap pass_on_signal TERM INT HUP USR1; }

# A signal interrupts `wait`, which then has to be called again.
wait_for_supervised() {
  while true; do
    interrupted=0
    wait "$supervised_pid" && status=0 || status=$?
    if ((interrupted == 0)); then break; fi
  done
  supervised_pid=
}

supervise() {
  # In a process group of its own (set -m), so that Ctrl-C reaches the script alone. If the script
  # is killed, the command hears of it.
  if ((stop_requested)); then
    status=75
    return
  fi
  set -m
  setpriv --pdeathsig USR1 "$@" </dev/null &
  supervised_pid=$!
  set +m
  # A signal that came before there was anybody to pass it on to.
  if ((stop_requested)); then kill -USR1 "$supervised_pid" 2>/dev/null || true; fi
  wait_for_supervised
}

# The newest committed checkpoint of RUN, as "step-000000120", or nothing.
newest_commit() {
  local manifest newest=
  for manifest in "$1"/step-*/manifest.json; do
    if [[ -e $manifest ]]; then newest=$(basename "$(dirname "$manifest")"); fi
  done
  echo "$newest"
}

exit_record() { cat "$1/exit.json" 2>/dev/null || true; }

# A number or true/false of RUN/exit.json.
record_field() { sed -n "s/^  \"$2\": \([a-z0-9-]*\),\{0,1\}$/\1/p" "$1/exit.json" 2>/dev/null || true; }

# Why the attempt at RUN ended: its exit record says it; a launcher's status may be that of a rank
# that was killed in the aftermath. $2: the record from before the attempt.
code_of_attempt() {
  local code
  code=$(record_field "$1" code)
  if [[ -n $code && $(exit_record "$1") != "$2" ]]; then
    echo "$code"
  elif ((stop_requested)); then
    echo 75  # ended before it could say so
  else
    echo "$status"
  fi
}

# How many attempts in a row have ended at the same newest checkpoint, this one included; kept in
# RUN/attempts_without_commit.
count_without_commit() {
  local file=$1/attempts_without_commit commit count=0 commit_before=
  commit=$(newest_commit "$1")
  if [[ -e $file ]]; then read -r count commit_before <"$file" || true; fi
  if [[ ! -e $file || $commit != "$commit_before" ]]; then count=0; fi
  echo "$((count + 1)) $commit" >"$file"
  echo "$((count + 1))"
}

# From here on attempts are counted against the newest checkpoint there is now.
begin_counting() {
  if [[ -d $1 ]]; then echo "0 $(newest_commit "$1")" >"$1/attempts_without_commit"; fi
}

# Records that RUN is given up, $2 being the code of its last attempt.
record_no_progress() {
  local attempt step
  attempt=$(record_field "$1" attempt)
  step=$(newest_commit "$1")
  step=$((10#0${step#step-}))
  if [[ -e $1/exit.json ]]; then mv "$1/exit.json" "$1/exit.previous.json"; fi
  cat >"$1/exit.json" <<JSON
{
  "code": 93,
  "name": "no_progress",
  "step": $step,
  "rank": -1,
  "attempt": ${attempt:-0},
  "requeue": false,
  "reason": "several attempts in a row without a newer checkpoint; the last ended with $2",
  "time": "$(date -u +%Y-%m-%dT%H:%M:%SZ)"
}
JSON
}

# Ends the script when the arguments hold a flag that every start would obey anew.
refuse_flags_of_one_start() {
  local argument
  for argument in "$@"; do
    case $argument in
      --allow-fresh | --resume-step | --resume-step=*)
        echo "$argument would count again at every restart: start once without restarts" \
          "(launch/local.sh without --restart) with it, stop, then go on without it" >&2
        exit 64
        ;;
    esac
  done
}
