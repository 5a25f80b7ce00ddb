#!/bin/bash
# One rank's failure ends every rank within 10 s, with that rank's code and one line, and no
# unfinished file stays: abort_test.sh DRIVER
set -u
driver=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
failures=0

for ranks in 2 3; do
  for how in alone agreed; do
    for failing in 0 $((ranks - 1)); do
      start=$SECONDS
      timeout -k 5 30 "$MPIRUN" --bind-to none -n "$ranks" "$driver" "$how" "$failing" 74 "$folder/tmp" \
        >"$folder/out" 2>"$folder/err"
      status=$?
      took=$((SECONDS - start))
      lines=$(grep -ac '^atlasvi: error: ' "$folder/err")
      if [ -e "$folder/tmp" ] || [ "$status" != 74 ] || [ "$took" -gt 10 ] || [ "$lines" != 1 ] ||
        ! grep -aqx "atlasvi: error: rank $failing cannot read its part" "$folder/err"; then
        echo "FAIL $how, rank $failing of $ranks: status $status, $took s, $lines lines"
        cat "$folder/err"
        failures=$((failures + 1))
      fi
    done
  done
done
[ "$failures" = 0 ] && echo "every failure ended all ranks"
