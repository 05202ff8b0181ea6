#!/usr/bin/env bash
# Is a Mixture-of-Experts worth it? Trains configs/quickstart.json and its dense twin for the same
# number of FLOPs and prints what each reaches on held-out text:
#   benchmarks/equal_flops.sh [--set a.b=value ...]      (options for both runs)
# The twins cost the same FLOPs per token but for the router (0.2 %) and take the same steps; the
# table says what was spent. Needs what launch/quickstart.sh prepares. Results go to runs/equal-flops-N.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ ! -f data/kjv.idx ]]; then
  echo "$0: no data/kjv.idx; run launch/quickstart.sh first" >&2
  exit 65
fi
n=1
mkdir -p runs
until mkdir "runs/equal-flops-$n" 2>/dev/null; do ((++n)); done
directory=runs/equal-flops-$n

train() {  # CONFIG NAME [options]
  launch/local.sh 2 "configs/$1.json" --set "training.output_dir=$directory/$2" "${@:3}"
}
train quickstart moe "$@"
train quickstart_dense dense "$@"

python3 - "$directory" <<'PYTHON'
import json, math, sys

print(f"{'':8}{'steps':>7}{'PFLOP':>9}{'seconds':>9}{'bits/byte':>11}")
for name in ("moe", "dense"):
    lines = [json.loads(line) for line in open(f"{sys.argv[1]}/{name}/metrics.jsonl")]
    steps = [line for line in lines if "lm_loss" in line]
    flops = sum(step["tflops"] * step["step_time_s"] for step in steps) / 1e3
    seconds = sum(step["step_time_s"] for step in steps)
    bits = [line for line in lines if "validation_lm_loss" in line][-1]["validation_lm_loss"] / math.log(2)
    print(f"{name:8}{len(steps):7}{flops:9.3f}{seconds:9.1f}{bits:11.4f}")
PYTHON
