#!/usr/bin/env bash
# Formats all C++ files as .clang-format says; with --check, only names those that would change.
#   tools/format.sh [--check]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Versions of clang-format differ in details; version 14 (Debian 12) is the reference.
format=clang-format
if command -v clang-format-14 >/dev/null; then format=clang-format-14; fi
if ! command -v "$format" >/dev/null; then
  echo "skipped: clang-format is not installed (tools/install_packages.sh lint)" >&2
  exit 77
fi
case "$("$format" --version)" in
  *"version 14."*) ;;
  *) echo "note: the reference is clang-format 14, this is $("$format" --version)" >&2 ;;
esac

mapfile -t files < <(
  find src tests benchmarks -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' | sort)
case "${1:-}" in
  "") "$format" -i "${files[@]}" ;;
  --check) "$format" --dry-run -Werror "${files[@]}" && echo "format: ${#files[@]} files are fine" ;;
  *)
    sed -n '2,/^set/{s/^# \{0,1\}//p}' tools/format.sh >&2
    exit 64
    ;;
esac
