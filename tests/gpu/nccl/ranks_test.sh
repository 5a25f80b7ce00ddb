#!/bin/bash
# Whatever goes wrong in NCCL on one rank ends every rank soon, with a line that says what was
# waited for, and every rank that is not stuck aborts its communicator: ranks_test.sh DRIVER
set -u
driver=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
failures=0

# aborters RANKS FAILING WHO: the ranks that abort NCCL's communicator
aborters() {
  for ((rank = 0; rank < $1; ++rank)); do
    case $3 in
      all | each) echo "$rank" ;;
      others) [ "$rank" = "$2" ] || echo "$rank" ;;
    esac
  done
}

# once RANKS FAILING HOW STATUS SECONDS WHO TEXT [graph]: TEXT is a pattern of a line of some rank;
# R stands for the failing one. WHO aborts: all, with one line of error, that of the failing one;
# each, with a line of its own, if need be; others than the failing one, which hangs; none; some.
once() {
  local ranks=$1 failing=$2 how=$3 expected=$4 limit=$5 who=$6 text=${7//R/$2} start=$SECONDS
  timeout -k 5 60 "$MPIRUN" --bind-to none -n "$ranks" "$driver" "$how" "$failing" "${@:8}" \
    >"$folder/out" 2>"$folder/err"
  local status=$? took=$((SECONDS - start)) why=
  local errors=$(grep -ac '^atlasvi: error: ' "$folder/err")
  local aborted=$(grep -ao '^standin: rank [0-9]* aborts$' "$folder/err" | tr -dc '0-9\n' | sort)
  echo >>"$folder/err" # a line even where all is well
  [ "$status" = "$expected" ] || why="status $status"
  [ "$took" -le "$limit" ] || why="$why, $took s"
  grep -aEq "$text" "$folder/err" || why="$why, not \"$text\""
  [ "$who" != all ] || [ "$errors" = 1 ] || why="$why, $errors lines of error"
  [ "$who" = some ] || [ "$aborted" = "$(aborters "$ranks" "$failing" "$who")" ] ||
    why="$why, not $who have aborted"
  if [ -n "$why" ]; then
    echo "FAIL $how ${8:-}, rank $failing of $ranks: $why, in:"
    cat "$folder/err"
    failures=$((failures + 1))
  fi
}

# check HOW STATUS SECONDS WHO TEXT; some_of the same, where ranks hang, and so does the test
check() {
  for ranks in 2 3; do
    for failing in 0 $((ranks - 1)); do
      once "$ranks" "$failing" "$@"
    done
  done
}
some_of() {
  once 2 0 "$@"
  once 3 2 "$@"
}

timed='NCCL has waited 1 s \(\[runtime\] gpu_timeout\) for the other GPUs: a rank, its GPU or the network between them hangs, or is late; see .*; for ranks that are only late set gpu_timeout higher$'
check none 0 10 none '^$'
some_of absent 74 15 each "^atlasvi: error: rank [0-9]+, starting NCCL: $timed"
check start 74 10 all '^atlasvi: error: rank R, starting NCCL: NCCL: unhandled system error \('
some_of late 74 15 others "^atlasvi: error: rank [0-9]+, losses of an epoch: $timed"
once 3 2 freeing 74 15 others "^atlasvi: error: rank [0-9]+, arrays, to be freed: $timed"
remote='remote process exited or there was a network error: made to fail by the test; NCCL_DEBUG=INFO tells more, \[runtime\] gpu_sums = mpi does without NCCL$'
check error 74 10 all "^atlasvi: error: rank R, losses of an epoch: NCCL: $remote"
some_of mute 74 20 all "^atlasvi: error: rank R, losses of an epoch: NCCL: $remote"
check gpu 70 10 all 'an illegal memory access was encountered'
check launch 70 10 all 'ranks_driver.c:[0-9]+.*an illegal memory access was encountered'
check early 74 10 all "^atlasvi: error: rank R, sum of gradients: NCCL: $remote"
left='NCCL did not end, other ranks having left sums that it waits for; the GPU is left as it is$'
once 2 1 left 0 8 some "^atlasvi: warning: rank 0: $left"
once 3 0 stuck 0 15 some "^atlasvi: warning: rank 2: $left"

# the same from a graph; ncclCommAbort does not return while there is one
once 3 1 none 0 10 none '^$' graph
once 3 2 late 74 20 others "^atlasvi: error: rank [01], losses of an epoch: $timed" graph
once 3 2 error 74 20 all "^atlasvi: error: rank R, losses of an epoch: NCCL: $remote" graph
[ "$failures" = 0 ] && echo "every failure ended all ranks"
