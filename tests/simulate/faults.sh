#!/bin/bash
# What goes wrong first when simulating: message, exit status, and nothing left behind.
set -euo pipefail
program=$(realpath "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
chmod 755 .

# expect STATUS PATTERN COMMAND...: exactly one error line, which contains PATTERN.
expect() {
  local status=$1 pattern=$2 got=0
  shift 2
  "$@" >out 2>err || got=$?
  if [ "$got" != "$status" ] || [ "$(grep -c '^atlasvi: error:' err)" != 1 ] ||
    ! grep -qF -- "$pattern" err; then
    echo "FAILED: $*: status $got, expected $status and: $pattern" >&2
    cat out err >&2
    exit 1
  fi
}

"$program" small.h5ad cells=50 genes=40 >/dev/null
before=$(sha256sum small.h5ad)
expect 73 'small.h5ad: exists already' "$program" small.h5ad cells=60 genes=40
[ "$before" = "$(sha256sum small.h5ad)" ]
"$program" small.h5ad cells=60 genes=40 overwrite=yes >/dev/null
[ "$before" != "$(sha256sum small.h5ad)" ]

mkdir folder
expect 73 'a directory of that name exists' "$program" folder
expect 73 'does not exist' "$program" nowhere/x.h5ad
expect 64 'cellls: unknown setting; did you mean cells?' "$program" x.h5ad cellls=3
expect 64 'exceeds 2^24' "$program" x.h5ad genes=2 library_mean=1e6 library_sd=2

# A file-size limit: what a full disk does, at any moment of the writing.
for kilobytes in 20 200 1000; do
  expect 74 'x.h5ad: ' bash -c "ulimit -f $kilobytes; exec '$program' x.h5ad genes=500 compression=1"
done
expect 74 'x.h5ad: ' bash -c "ulimit -f 200; exec '$program' x.h5ad"

if [ "$(id -u)" = 0 ]; then # root may write anywhere
  mkdir -m 555 locked
  cp "$program" ./program && chmod 755 program
  expect 73 'no permission' setpriv --reuid=65534 --regid=65534 --clear-groups \
    env HOME="$work" ./program locked/x.h5ad
  rm program
else
  mkdir -m 555 locked
  expect 73 'no permission' "$program" locked/x.h5ad
fi

rm -f out err
[ "$(find . -type f -printf '%P ')" = 'small.h5ad ' ] || { echo "FAILED: left behind:"; find .; exit 1; } >&2
echo "all faults reported"
