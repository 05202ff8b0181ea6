#!/usr/bin/env bash
# Trains on this machine, with RANKS processes that share its cores evenly:
#   launch/local.sh [--restart] RANKS CONFIG [--set a.b=value ...]
# Ctrl-C or SIGTERM makes the run save and stop (exit code 75), a second one end at once; the same
# command goes on from there. With --restart a run that fails is started again after 10, 30 and 90 s
# ($SWITCHYARD_BACKOFF), unless only a person can mend it; three restarts in a row that bring no
# newer checkpoint end in exit code 93.
# or runs another subcommand of switchyard on them:
#   launch/local.sh RANKS verify CONFIG [options]
#   launch/local.sh RANKS bench step CONFIG [options]
# The binary is build/cpu/switchyard, or $SWITCHYARD. The exit code is the job's.
set -euo pipefail

restart=false
if [[ ${1:-} == --restart ]]; then
  restart=true
  shift
fi
if (($# < 2)) || ! [[ $1 =~ ^[1-9][0-9]*$ ]]; then
  sed -n '2,/^set/{s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2
  exit 64
fi
ranks=$1
shift
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
binary="${SWITCHYARD:-$root/build/cpu/switchyard}"
if [[ ! -x $binary ]]; then
  echo "$0: no $binary; build it: cmake --preset cpu && cmake --build --preset cpu" >&2
  exit 64
fi
case $1 in
  train | verify | bench) ;;
  *) set -- train "$@" ;;
esac
if $restart && [[ $1 != train ]]; then
  echo "$0: --restart is for training" >&2
  exit 64
fi

# The CPUs that this shell may use, and how many physical cores they are (two hardware threads of a
# core share its multipliers: a second thread there brings our kernels nothing).
allowed=$(taskset --cpu-list --pid $$)
read -r cpus cores online < <(lscpu --parse=CPU,CORE,SOCKET | awk -F, -v allowed="${allowed##*: }" '
  BEGIN {
    count = split(allowed, ranges, ",")
    for (i = 1; i <= count; ++i) {
      parts = split(ranges[i], ends, "-")
      for (cpu = ends[1] + 0; cpu <= ends[parts] + 0; ++cpu) mine[cpu] = 1
    }
  }
  /^#/ { next }
  { ++online }
  $1 in mine { ++cpus; if (!seen[$2, $3]++) ++cores }
  END { print cpus, cores, online }')
# A container may be limited in time rather than in CPUs: "quota period", or "max period".
quota=max
if [[ -r /sys/fs/cgroup/cpu.max ]]; then read -r quota period </sys/fs/cgroup/cpu.max; fi
limit=$cores
if [[ $quota != max ]] && ((quota / period < cores)); then
  limit=$((quota < period ? 1 : quota / period))
fi

threads=$((limit / ranks))
if ((threads == 0)); then
  # More ranks than cores: the system schedules them. Who waits must not spin then; Open MPI sees
  # that by itself only if it sees how few cores we have.
  threads=1
  binding=(--bind-to none --oversubscribe)
  export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}" OMPI_MCA_mpi_yield_when_idle=1
elif ((cpus < online || limit < cores)); then
  # Only part of the machine is ours. Open MPI binds to the first cores of the machine, not to those
  # of the affinity mask that mpirun was started with: leave the ranks with the mask they inherit.
  binding=(--bind-to none --oversubscribe)
else
  # Without PE=... Open MPI pins each of one or two ranks to a single core.
  binding=(--map-by "slot:PE=$threads" --bind-to core)
fi

# By itself a rank starts one thread per CPU of its affinity mask. Say so where that is not wanted.
mask=$cpus
if [[ ${binding[1]} != none ]]; then mask=$((threads * cpus / cores)); fi
arguments=()
for argument in "$@"; do
  arguments+=("$argument")
  if ((mask != threads)) && [[ $argument == *.json ]]; then
    arguments+=(--set "training.num_threads=$threads")  # after CONFIG, before the user's own --set
    mask=$threads
  fi
done

# OpenBLAS must not start a pool of its own at load time, which our threads would never use.
export OMP_NUM_THREADS=$threads OPENBLAS_NUM_THREADS=1
if ((EUID == 0)); then
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi

command=("$binary" "${arguments[@]}")
if [[ -t 1 && -t 2 ]]; then
  # mpirun gives its ranks a terminal as stdout but a pipe as stderr, where the progress line goes.
  # shellcheck disable=SC2016  # expanded by the inner shell
  command=(sh -c 'exec "$@" 2>&1' switchyard "${command[@]}")
fi
echo "$ranks rank(s) x $threads thread(s) on $cores core(s): mpirun ${binding[*]} ${arguments[*]}" >&2
command=(mpirun "${binding[@]}" -n "$ranks" "${command[@]}")
if [[ $1 != train ]]; then exec "${command[@]}"; fi

# shellcheck source=launch/supervise.sh
source "$root/launch/supervise.sh"
if $restart; then refuse_flags_of_one_start "$@"; fi
run=$("$binary" "${arguments[@]}" --print-run-directory)
trap_signals
read -r -a backoff <<<"${SWITCHYARD_BACKOFF:-10 30 90}"
begin_counting "$run"
while true; do
  record=$(exit_record "$run")
  supervise "${command[@]}"
  code=$(code_of_attempt "$run" "$record")
  if ! $restart || ((stop_requested)); then exit "$code"; fi
  case $code in
    0 | 64 | 65 | 69 | 75 | 77) exit "$code" ;;  # done, or nothing that another try would change
  esac
  if [[ ! -d $run ]]; then exit "$code"; fi  # it never began
  restarts=$(count_without_commit "$run")
  if ((restarts > ${#backoff[@]})); then
    record_no_progress "$run" "$code"
    echo "exit code $code, and ${#backoff[@]} restarts have brought no newer checkpoint: given up" >&2
    exit 93
  fi
  pause=${backoff[restarts - 1]}
  echo "exit code $code; restart $restarts without a newer checkpoint in $pause s" >&2
  supervise sleep "$pause"
  if ((stop_requested)); then exit 75; fi
done
