#!/usr/bin/env bash
# What to run first on a node with GPUs. No GPU has run this code before yours:
#   launch/check_gpu.sh [--gpus N] [--report FILE] [CONFIG [--set a.b=value ...]]
# Runs, one after another, whatever fails: the tests of the CUDA backend on a real device, the proof
# (verify) that the layout of CONFIG over N GPUs computes what one CPU rank does, in f64, f32 and
# bf16, and the speed of its step (bench). All they print goes to one file, by default
# gpu_report-HOST-TIME.txt, which ends with a line for each part. The exit code is 0 when all passed.
#   N: all GPUs that this shell sees. CONFIG: configs/quickstart.json, its experts over all N.
#   The build is build/cuda, or $SWITCHYARD_BUILD: cmake --preset cuda && cmake --build --preset cuda
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
build="${SWITCHYARD_BUILD:-$root/build/cuda}"
gpus=
report="gpu_report-$(hostname)-$(date +%Y%m%d-%H%M%S).txt"
while [[ ${1:-} == --* ]]; do
  case $1 in
    --gpus) gpus=$2 ;;
    --report) report=$2 ;;
    *)
      sed -n '2,/^set/{s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2
      exit 64
      ;;
  esac
  shift 2
done
export SWITCHYARD="$build/switchyard"
if [[ ! -x $SWITCHYARD ]]; then
  echo "$0: no $SWITCHYARD; build it: cmake --preset cuda && cmake --build --preset cuda" >&2
  exit 64
fi
if [[ -z $gpus ]]; then
  if [[ -n ${CUDA_VISIBLE_DEVICES+x} ]]; then
    IFS=, read -r -a visible <<<"$CUDA_VISIBLE_DEVICES"
    gpus=${#visible[@]}
  else
    gpus=$(nvidia-smi --query-gpu=uuid --format=csv,noheader | grep -c .) || gpus=0
  fi
fi
if ! [[ $gpus =~ ^[1-9][0-9]*$ ]]; then
  echo "$0: no GPU is visible: see nvidia-smi and CUDA_VISIBLE_DEVICES, or say --gpus N" >&2
  exit 64
fi
job=("$@")
if ((${#job[@]} == 0)); then
  # Eight experts, dealt out over the largest power of two of the ranks that divides them.
  experts=1
  while ((experts < 8 && gpus % (2 * experts) == 0)); do experts=$((2 * experts)); done
  job=("$root/configs/quickstart.json" --set "parallelism.expert_parallel_size=$experts"
    --set "train_batch_size=$((8 * gpus))")
fi
job+=(--set device=cuda)

names=()
codes=()
# Runs one part; its output goes to the report, too.
part() {
  local name=$1 code=0
  shift
  printf '\n==== %s: %s\n' "$name" "$*"
  "$@" 2>&1 || code=$?
  names+=("$name")
  codes+=("$code")
}

run_all() {
  local revision
  revision=$(git -C "$root" describe --always --dirty 2>/dev/null || echo unknown)
  echo "Switchyard $("$SWITCHYARD" --version), revision $revision; $(hostname), $(date); $gpus GPU(s)"
  part "GPUs" nvidia-smi
  part "links" nvidia-smi topo -m
  part "tests" ctest --test-dir "$build" -L cuda --output-on-failure --no-tests=error
  local dtype
  for dtype in f64 f32 bf16; do
    part "verify $dtype" "$root/launch/local.sh" "$gpus" verify "${job[@]}" --dtype "$dtype"
  done
  part "bench f32" "$root/launch/local.sh" "$gpus" bench step "${job[@]}" --set bf16.enabled=false
  part "bench bf16" "$root/launch/local.sh" "$gpus" bench step "${job[@]}" --set bf16.enabled=true
  local i failed=0
  printf '\n==== summary\n'
  for i in "${!names[@]}"; do
    if ((codes[i] == 0)); then
      printf '%-14s passed\n' "${names[i]}"
    else
      printf '%-14s FAILED, exit code %s\n' "${names[i]}" "${codes[i]}"
      failed=1
    fi
  done
  return $failed
}

failed=0
run_all | tee "$report" || failed=${PIPESTATUS[0]}
echo "the report is $report" >&2
exit "$failed"
