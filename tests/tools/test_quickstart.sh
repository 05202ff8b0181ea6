#!/usr/bin/env bash
# Runs launch/quickstart.sh in a copy of what it needs, twice, shortened to a few steps:
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
  --set scheduler.params.warmup_num_steps=4)

expect() {
  grep -qE "$1" "$work/log" || { cat "$work/log"; echo "no line with: $1"; exit 1; }
}

for n in 1 2; do
  "$work/launch/quickstart.sh" "${options[@]}" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
  expect 'step +16/16 .*tokens/s.*eta'
  expect 'bits per byte'
  expect 'bigram +baseline: 3\.[0-9]+ bits'
  expect '^In the beginning.{20}'
  test -s "$work/runs/quickstart-$n/model.safetensors"
  python3 - "$work/runs/quickstart-$n/metrics.jsonl" <<'PYTHON'
import json, sys
losses = [line["lm_loss"] for line in map(json.loads, open(sys.argv[1])) if "lm_loss" in line]
assert len(losses) == 16, losses
assert losses[0] > 5.4 and losses[-1] < 3.6, losses
PYTHON
done
expect 'text +data/kjv.txt is there'
expect 'prepare +data/kjv.bin'
