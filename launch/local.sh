#!/usr/bin/env bash
# Trains on this machine, with RANKS processes that share its cores evenly:
#   launch/local.sh RANKS CONFIG [--set a.b=value ...]
# or runs another subcommand of switchyard on them:
#   launch/local.sh RANKS verify CONFIG [options]
#   launch/local.sh RANKS bench step CONFIG [options]
# The binary is build/cpu/switchyard, or $SWITCHYARD. The exit code is the job's.
set -euo pipefail

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
exec mpirun "${binding[@]}" -n "$ranks" "${command[@]}"
