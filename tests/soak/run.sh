#!/usr/bin/env bash
# Soaks: tests that take hours, for the night. From anywhere:
#   tests/soak/run.sh [--record FILE] [NAME[=COUNT]...]
# Without names, all of them. COUNT replaces the full count. Prints a table, also to FILE (Markdown),
# and ends with 1 if a soak failed. What this machine cannot run says NOT RUN, and why: that is no
# failure, and no success. What each soak printed is in build/soak/NAME.log.
#
#   NAME              full   what is counted
#   random_events     1000   kills, stops, signals, faults of storage, flipped bits at a run that is
#                            started again each time (reliability A11)
#   killed_launchers    50   each: mpirun, the batch shell, their process groups killed (A6)
#   killed_hosts        50   all processes of a host (network namespace) killed: root (A6)
#   double_faults      100   kills in a save, and again while the run comes back (A8)
#   all_pairs            1   all ordered pairs of twelve layouts, f64 and f32 (E1)
#   slurm                3   requeues in a row under a SLURM of its own: slurm-wlm, root (F7)
#   hangs                1   each rank stops, hangs, loses a message in each phase (G1)
#   partition            4   hosts (network namespaces) cut off; lost packets: nftables, root (G5)
#   snapshots         1000   saves while training goes on (I2)
#   fuzz          10000000   inputs for each parser, under the sanitizers if they are built (J1)
#   reference_reader 1000000 nearly right headers against PyPI's safetensors, of $PYTHON (J3)
#
# The binaries are those of build/cpu and build/asan, all targets built. $SWITCHYARD_SOAK_SEED gives
# the same random choices again, as far as the scheduler lets it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

soaks=(random_events=1000 killed_launchers=50 killed_hosts=50 double_faults=100 all_pairs=1 slurm=3 hangs=1
  partition=4 snapshots=1000 fuzz=10000000 reference_reader=1000000)
build=$PWD/build/cpu
logs=$PWD/build/soak
record=

usage() {
  sed -n '2,/^set/{s/^# \{0,1\}//p}' tests/soak/run.sh
  exit "$1"
}

# The environment of the tests (tests/CMakeLists.txt): ranks share cores, and may be root's.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
export OMPI_MCA_mpi_yield_when_idle=1 OMP_WAIT_POLICY=passive OPENBLAS_NUM_THREADS=1

full_count() {
  local soak
  for soak in "${soaks[@]}"; do
    if [[ ${soak%=*} == "$1" ]]; then echo "${soak#*=}"; fi
  done
}

needs() {
  if [[ ! -x $1 ]]; then
    echo "NOT RUN: $1 is not built"
    exit 77
  fi
}

# The test cases of that name or tag, of which there must be one.
catch_tests() {
  local executable=$build/$1
  needs "$executable"
  "$executable" --warn NoTests "$2"
}

fuzz() {
  local executable=$PWD/build/asan/tests/fuzz/fuzz with="under the address and UB sanitizers"
  if [[ ! -x $executable ]]; then executable=$build/tests/fuzz/fuzz with="without sanitizers"; fi
  needs "$executable"
  (cd "$logs" && "$executable" --inputs "$1" --seed "${SWITCHYARD_SOAK_SEED:-$RANDOM}") || return
  echo "counted: $1 inputs for each parser, $with, no finding"
}

# Prints what it likes, and "counted: ..." lines. Ends with 77 after "NOT RUN: ...". It is called
# where the shell overlooks failures: each is returned.
run_soak() {
  local name=$1 count=$2
  case $name in
    all_pairs)
      catch_tests tests/resume/test_reshard "[.all]" || return
      echo "counted: 12 layouts, all 132 ordered pairs, f64 and f32: every tensor equal by digest"
      ;;
    hangs) catch_tests tests/train/test_watchdog_job "[.all]" ;;
    snapshots)
      SWITCHYARD_SNAPSHOTS=$count catch_tests tests/faults/test_snapshots \
        "tensors change while they are written: the file holds the snapshot" || return
      echo "counted: $count saves by 4 ranks whose tensors change meanwhile: each holds its snapshot"
      ;;
    fuzz) fuzz "$count" ;;
    *)
      needs "$build/switchyard_with_faults"
      "${PYTHON:-python3}" "tests/soak/$name.py" "$build/switchyard" "$(command -v mpirun)" "$count"
      ;;
  esac
}

# One line of the table.
report() {
  local name=$1 count=$2 status=$3 seconds=$4 full result counted
  full=$(full_count "$name")
  case $status in
    0) result=passed ;;
    77) result="NOT RUN" ;;
    *) result=FAILED ;;
  esac
  counted=$(sed -nE 's/^ *(counted|NOT RUN): //p' "$logs/$name.log" | paste -sd ';' | sed 's/;/; /g')
  echo "| $name | $count of $full | $result | $seconds | ${counted:-see build/soak/$name.log} |"
}

names=()
while (($# > 0)); do
  case $1 in
    -h | --help) usage 0 ;;
    --record)
      if (($# < 2)); then usage 64 >&2; fi
      record=$(realpath --canonicalize-missing "$2")
      shift
      ;;
    *)
      if [[ -z $(full_count "${1%%=*}") ]] || ! [[ $1 =~ ^[a-z_]+(=[1-9][0-9]*)?$ ]]; then
        echo "$0: no soak $1" >&2
        usage 64 >&2
      fi
      names+=("$1")
      ;;
  esac
  shift
done
if ((${#names[@]} == 0)); then names=("${soaks[@]}"); fi

mkdir -p "$logs"
table=$logs/table.md
printf '%s\n' "| soak | count | result | seconds | counted |" "|---|---|---|---|---|" >"$table"
failed=0
for soak in "${names[@]}"; do
  name=${soak%%=*}
  count=${soak#*=}
  if [[ $soak != *=* ]]; then count=$(full_count "$name"); fi
  echo "== $name $count" >&2
  begin=$SECONDS
  status=0
  (run_soak "$name" "$count") >"$logs/$name.log" 2>&1 || status=$?
  if ((status != 0 && status != 77)); then
    failed=1
    tail -n 40 "$logs/$name.log" >&2
  fi
  report "$name" "$count" "$status" "$((SECONDS - begin))" >>"$table"
  tail -n 1 "$table" >&2
done
cat "$table"
if [[ -n $record ]]; then cp "$table" "$record"; fi
exit "$failed"
