#!/usr/bin/env bash
# Runs launch/quickstart.sh in a copy of what it needs, shortened to a few steps, twice: the second
# run loses a rank, and the same command again ends where the first run did:
#   test_quickstart.sh SWITCHYARD SOURCE_DIR
# Skipped (77) where the text is not installed.
set -euo pipefail
if ! command -v bible >/dev/null; then
  echo "skipped: bible-kjv is not installed"
  exit 77
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r "$2/launch" "$2/configs" "$2/tools" "$work"
export SWITCHYARD=$1
options=(--set training.max_steps=16 --set data.validation_fraction=0.002
  --set scheduler.params.warmup_num_steps=4 --set checkpoint.interval_steps=4)

expect() {
  grep -qE "$1" "$work/log" || { cat "$work/log"; echo "no line with: $1"; exit 1; }
}

lines() { if [[ -f $1 ]]; then wc -l <"$1"; else echo 0; fi }

# Kills a rank of runs/quickstart-2 after some steps.
lose_a_rank() {
  "$work/launch/quickstart.sh" "${options[@]}" >"$work/log" 2>&1 &
  local job=$!
  while kill -0 "$job" && (($(lines "$work/runs/quickstart-2/metrics.jsonl") < 7)); do sleep 0.05; done
  pkill -9 -n -f "^$SWITCHYARD train .*output_dir=runs/quickstart-2" ||
    { cat "$work/log"; echo "no rank to kill"; exit 1; }
  if wait "$job"; then echo "the job outlived its rank"; exit 1; fi
}

for n in 1 2; do
  if ((n == 2)); then lose_a_rank; fi
  "$work/launch/quickstart.sh" "${options[@]}" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
  expect 'step +16/16 .*tokens/s.*eta'
  expect 'bits per byte'
  expect 'bigram +baseline: 3\.[0-9]+ bits'
  expect '^In the beginning.{20}'
  test -s "$work/runs/quickstart-$n/model.safetensors"
  python3 - "$work/runs/quickstart-1/metrics.jsonl" "$work/runs/quickstart-$n/metrics.jsonl" <<'PYTHON'
import json, sys
first, losses = ([line["lm_loss"] for line in map(json.loads, open(path))
                  if "lm_loss" in line and not line["superseded"]] for path in sys.argv[1:])
assert len(losses) == 16, losses
assert losses[0] > 5.4 and losses[-1] < 3.6, losses
assert losses == first, (losses, first)
PYTHON
done
expect 'attempt 2 goes on from step [048]'
cmp "$work"/runs/quickstart-{1,2}/model.safetensors
expect 'text +data/kjv.txt is there'
expect 'prepare +data/kjv.bin'
