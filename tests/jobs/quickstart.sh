#!/bin/bash
# README's first command, with the program of this build: ends well, within its time, and recovers
# the planted factors.
set -euo pipefail
: "${SOURCE:?the source tree}" "${ATLASVI:?the program}"
/usr/bin/python3 -c 'import h5py' 2>/dev/null || { echo "skipped: python3-h5py is not installed"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
SECONDS=0
"$SOURCE/jobs/quickstart.sh" --no-install --program "$ATLASVI" | tee out
[ $SECONDS -lt 180 ] || { echo "FAILED: took $SECONDS s" >&2; exit 1; }
for said in 'recovered factors' 'top genes' 'held-out' 'training:' "$work/quickstart-run/fitted.h5ad"; do
  grep -qF "$said" out || { echo "FAILED: does not say: $said" >&2; exit 1; }
done
"$SOURCE/jobs/compare_factors.py" quickstart-run/simulated.h5ad quickstart-run/fitted.h5ad --at-least 0.9 >/dev/null
# again, over its own results
"$SOURCE/jobs/quickstart.sh" --no-install --program "$ATLASVI" --cells 500 --epochs 2 --ranks 1 >/dev/null
status=0
"$SOURCE/jobs/quickstart.sh" --nonsense 2>/dev/null || status=$?
[ $status = 64 ]
