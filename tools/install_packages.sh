#!/usr/bin/env bash
# Installs the Debian packages of the named lists (tools/packages/LIST.txt) that are missing:
#   tools/install_packages.sh build text
# Does nothing when all are there. Needs root or sudo otherwise.
set -euo pipefail
lists="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/packages"

if (($# == 0)); then
  echo "usage: $0 LIST...   (lists: $(basename -s .txt "$lists"/*.txt | xargs))" >&2
  exit 64
fi
wanted=()
for list in "$@"; do
  if [[ ! -f $lists/$list.txt ]]; then
    echo "$0: no list $list (there are: $(basename -s .txt "$lists"/*.txt | xargs))" >&2
    exit 64
  fi
  mapfile -t -O "${#wanted[@]}" wanted < <(grep -v '^#' "$lists/$list.txt")
done

if ! command -v dpkg-query apt-get >/dev/null; then
  echo "packages: this is no Debian; what is needed is called there: ${wanted[*]}" >&2
  exit 0  # they may well be here under other names; CMake names what it misses
fi
# Virtual packages and foreign architectures do not occur in the lists, so that names suffice.
installed=$(dpkg-query --show --showformat='${db:Status-Status} ${Package}\n' |
  sed -n 's/^installed //p')
mapfile -t missing < <(comm -23 <(printf '%s\n' "${wanted[@]}" | sort -u) <(sort -u <<<"$installed"))
if ((${#missing[@]} == 0)); then
  echo "packages: all ${#wanted[@]} of $* are installed"
  exit 0
fi

echo "packages: installing ${missing[*]}"
as_root=()
if ((EUID != 0)); then
  if ! command -v sudo >/dev/null; then
    echo "packages: neither root nor sudo; run as root: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi
apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get --quiet --quiet)
if ! "${apt[@]}" update || ! "${apt[@]}" install --yes --no-install-recommends "${missing[@]}"; then
  echo "packages: apt-get failed; missing still: ${missing[*]}" >&2
  exit 1
fi
