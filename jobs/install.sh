#!/bin/bash
# Installs the Debian packages of the named groups of packages.txt that are missing; does nothing if
# none is. Usage: jobs/install.sh build [tests]
# Needs root or sudo. With neither it says what would be installed and exits with status 69.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

packages_of() { # GROUP
  awk -v wanted="[$1]" '{ sub(/#.*/, "") } /^\[/ { group = $1; next } group == wanted && NF { print $1 }' \
    "$here/packages.txt"
}

installed() { # PACKAGE
  [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null || true)" = installed ]
}

# Prints how to become root ("" for root itself); fails if there is no way.
root_prefix() {
  if [ "$(id -u)" = 0 ]; then
    return 0
  elif ! command -v sudo >/dev/null; then
    return 1
  elif sudo -n true 2>/dev/null || { [ -t 0 ] && sudo -v; }; then
    echo sudo
  else
    return 1
  fi
}

wanted=()
for group in "$@"; do
  mapfile -t -O "${#wanted[@]}" wanted < <(packages_of "$group")
done
if [ ${#wanted[@]} = 0 ]; then
  echo "usage: jobs/install.sh build [tests]" >&2
  exit 64
fi

if ! command -v apt-get >/dev/null; then
  {
    echo "atlasvi: error: this is not Debian or Ubuntu (no apt-get). Install what corresponds to these"
    echo "packages, then run the same command with --no-install:"
    echo "  ${wanted[*]}"
  } >&2
  exit 69
fi

missing=()
for package in "${wanted[@]}"; do
  installed "$package" || missing+=("$package")
done
if [ ${#missing[@]} = 0 ]; then
  exit 0
fi

install=(apt-get install -y --no-install-recommends "${missing[@]}")
if ! prefix=$(root_prefix); then
  {
    echo "atlasvi: error: ${#missing[@]} packages are missing, and neither root nor sudo is available."
    echo "As root, this would be run:"
    echo "  apt-get update"
    echo "  ${install[*]}"
  } >&2
  exit 69
fi
echo "atlasvi: installing ${#missing[@]} packages: ${missing[*]}"
become=(${prefix:+"$prefix"} env DEBIAN_FRONTEND=noninteractive)
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! { "${become[@]}" apt-get update -qq && "${become[@]}" "${install[@]}"; } >"$log" 2>&1; then
  tail -n 40 "$log" >&2
  echo "atlasvi: error: the packages could not be installed (apt-get's last lines are above)" >&2
  exit 69
fi
