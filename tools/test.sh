#!/usr/bin/env bash
# Installs what the tests need, configures, builds and runs all tests:
#   tools/test.sh [PRESET...] [-- CTEST OPTIONS]     PRESET: cpu (default), asan, tsan,
#                                                    cuda-emulated, cuda-emulated-tsan
#   tools/test.sh cpu -- -L gradcheck
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

presets=()
while (($# > 0)) && [[ $1 != -- ]]; do
  case $1 in
    cpu | asan | tsan | cuda-emulated | cuda-emulated-tsan) presets+=("$1") ;;
    *)
      sed -n '2,/^set/{s/^# \{0,1\}//p}' tools/test.sh >&2
      exit 64
      ;;
  esac
  shift
done
if (($# > 0)); then shift; fi
if ((${#presets[@]} == 0)); then presets=(cpu); fi

lists=(build text test)
if [[ " ${presets[*]} " == *" tsan "* ]]; then lists+=(tsan); fi
tools/install_packages.sh "${lists[@]}"

for preset in "${presets[@]}"; do
  echo "== $preset: configure, build, test"
  cmake --preset "$preset"
  cmake --build --preset "$preset"
  ctest --preset "$preset" "$@"
done
