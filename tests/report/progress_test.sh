#!/bin/bash
# A bar only where a person watches, with and without mpirun (which gives every rank a terminal of its
# own, wherever its output goes): progress_test.sh DRIVER
set -u
driver=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
failures=0
command -v script >/dev/null || { echo "no script(1) here"; exit 77; }
launch="$MPIRUN --bind-to none -n 2"

# expect bar|lines WHAT FILE
expect() {
  bars=$(grep -ac 'epoch [1-3]/3.* %  left ' "$3")
  lines=$(tr '\r' '\n' <"$3" | grep -ac '^epoch [1-3]/3  elbo_train 12.5  elbo_validation 13.5 .* left 0:0')
  if { [ "$1" = bar ] && { [ "$bars" = 0 ] || [ "$lines" != 1 ]; }; } ||
    { [ "$1" = lines ] && { [ "$bars" != 0 ] || [ "$lines" != 3 ]; }; } ||
    { [ "$1" = none ] && { [ "$bars" != 0 ] || [ "$lines" != 0 ]; }; }; then
    echo "FAIL $2: $bars bars, $lines lines, want $1"
    cat -A "$3"
    failures=$((failures + 1))
  fi
}

# check KIND WHAT COMMAND: what a command leaves in a file of its own
check() {
  if ! timeout 60 sh -c "$3" >"$folder/file"; then
    echo "FAIL $2: the command failed"
    failures=$((failures + 1))
  fi
  expect "$1" "$2" "$folder/file"
}
# The same on a terminal of 100 columns: what is seen there, or in FILE
watch() {
  rm -f "$folder/seen"
  if ! timeout 60 script -qec "stty cols 100; $3" "$folder/typescript" >"$folder/out" </dev/null; then
    echo "FAIL $2: the command failed"
    failures=$((failures + 1))
  fi
  expect "$1" "$2" "${4:-$folder/out}"
}

watch bar "one process on a terminal" "$driver"
watch bar "mpirun on a terminal" "$launch $driver"
watch lines "mpirun on a terminal, through a pipe" "$launch $driver | cat"
watch lines "mpirun on a terminal, into a file" "$launch $driver >$folder/seen" "$folder/seen"
watch lines "lines asked for on a terminal" "$launch $driver lines"
check lines "one process into a file" "$driver"
check lines "mpirun into a file" "$launch $driver"
check lines "mpirun into a pipe" "$launch $driver 2>&1 | cat"
check lines "mpirun and a shell into a file" "$launch sh -c '$driver auto'"
check none "nothing asked for" "$launch $driver none"
check bar "a bar asked for in a file" "$launch $driver bar"
[ "$failures" = 0 ] && echo "bars and lines where they belong"
