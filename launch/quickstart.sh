#!/usr/bin/env bash
# From nothing to a trained Mixture-of-Experts model, in one command:
#   launch/quickstart.sh [--set a.b=value ...]
# Installs the packages that are missing (Debian; root or sudo), builds, fetches a text, trains on
# it for some minutes with two ranks and lets the model write. What is already there is reused, and a
# run that was stopped or killed goes on.
# The options go to `switchyard train`, e.g. --set training.max_steps=100 for a shorter run.
# $SWITCHYARD, when set, is the binary to use instead of building one.
set -euo pipefail
if [[ -n ${SWITCHYARD:-} ]]; then SWITCHYARD=$(realpath "$SWITCHYARD"); fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."

config=configs/quickstart.json
text=data/kjv.txt
text_sha256=b5c4940bcfeee072c0935b5200d0f9d88a00a0199cb0961d16133458fcdfae5d

stage() { printf '== %-9s %s\n' "$1" "$2"; }

build() {
  if [[ -n ${SWITCHYARD:-} ]]; then
    stage build "uses $SWITCHYARD"
    return
  fi
  SWITCHYARD=$PWD/build/cpu/switchyard
  export SWITCHYARD
  # build.ninja is the last file that configuring writes.
  if [[ ! -f build/cpu/build.ninja ]]; then
    stage configure "build/cpu"
    cmake --preset cpu
  fi
  if [[ -x $SWITCHYARD ]]; then
    stage build "$SWITCHYARD, where sources have changed"
  else
    stage build "$SWITCHYARD (some minutes)"
  fi
  cmake --build --preset cpu --target switchyard
}

# Every file is written under another name and renamed when it is whole, so that the next call
# repairs what an interrupted one left.
fetch_text() {
  if [[ -f $text ]]; then
    stage text "$text is there"
    return
  fi
  stage text "the King James Bible to $text"
  mkdir -p data
  # `bible` prints one verse per line, with its place in front, which is not part of the text.
  bible -f gen1:1-rev22:21 | sed -E 's/^[1-3]?[A-Za-z]+[0-9]+:[0-9]+ //' >"$text.$$"
  if (($(stat --format=%s "$text.$$") < 4000000)); then
    echo "$text: 'bible -f gen1:1-rev22:21' printed less than 4 MB: is bible-kjv whole?" >&2
    rm "$text.$$"
    exit 65
  fi
  if ! sha256sum --status --check <<<"$text_sha256  $text.$$"; then
    echo "note: this bible-kjv prints a slightly different text than version 4.38;" \
      "losses will differ in their last digits from those in README.md" >&2
  fi
  mv "$text.$$" "$text"
}

prepare_tokens() {
  if [[ -f data/kjv.bin && -f data/kjv.idx && ! $text -nt data/kjv.idx ]]; then
    stage prepare "data/kjv.bin and data/kjv.idx are there"
    return
  fi
  stage prepare "$text to tokens (bytes): data/kjv.bin and data/kjv.idx"
  "$SWITCHYARD" prepare "$text" --output data/kjv --force
}

# Whether a run began, has not finished, and no job is at work on it (its last one may be dying).
is_unfinished() {
  [[ -f $1/run.json ]] && ! grep -qs '"code": 0,' "$1/exit.json" && flock --wait 5 "$1/lock" true
}

# The last runs/quickstart-N, if it is unfinished; else a new one with the first free N. Prints its
# name.
choose_run_directory() {
  local n=1
  mkdir -p runs
  while [[ -d runs/quickstart-$((n + 1)) ]]; do ((++n)); done
  if is_unfinished "runs/quickstart-$n"; then
    echo "runs/quickstart-$n"
    return
  fi
  until mkdir "runs/quickstart-$n" 2>/dev/null; do
    [[ -d runs/quickstart-$n ]] || return 1  # not a question of the number
    ((++n))
  done
  echo "runs/quickstart-$n"
}

case "$*" in
  *-h | *--help)
    sed -n '2,/^set/{s/^# \{0,1\}//p}' launch/quickstart.sh
    exit 0
    ;;
  *training.output_dir*)
    echo "quickstart.sh chooses training.output_dir itself; use launch/local.sh to choose it" >&2
    exit 64
    ;;
esac

stage packages "what building and the text need (tools/packages/)"
tools/install_packages.sh build text
build
fetch_text
prepare_tokens
run=$(choose_run_directory)
stage train "$config with 2 ranks into $run"
# A job that never began leaves no directory behind.
trap 'rmdir --ignore-fail-on-non-empty "$run"' EXIT
launch/local.sh 2 "$config" "$@" --set "training.output_dir=$run"
stage generate "what the model makes of \"In the beginning\""
"$SWITCHYARD" generate "$run" --prompt "In the beginning" --max-new-tokens 400
stage finished "$run holds config.json, metrics.jsonl and model.safetensors; write more with:"
echo "   ${SWITCHYARD#"$PWD"/} generate $run --prompt \"And the LORD said\""
