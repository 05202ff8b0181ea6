#!/usr/bin/env bash
# Runs clang-tidy (.clang-tidy) over the sources, as the cpu preset compiles them:
#   tools/tidy.sh [REGULAR EXPRESSION OF PATHS]      e.g. tools/tidy.sh src/comm
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ ! -f build/cpu/compile_commands.json ]]; then cmake --preset cpu; fi
run-clang-tidy -quiet -p build/cpu "${1:-$PWD/src/}"
