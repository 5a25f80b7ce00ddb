#!/bin/bash
# Whatever goes wrong in NCCL on one rank ends every rank soon, with a line that says what was
# waited for: ranks_test.sh DRIVER
set -u
driver=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
failures=0

# once RANKS FAILING HOW STATUS SECONDS TEXT [graph]: TEXT is a pattern of a line of some rank; R
# stands for the failing one
once() {
  local ranks=$1 failing=$2 how=$3 expected=$4 limit=$5 text=${6//R/$2} start=$SECONDS
  timeout -k 5 60 "$MPIRUN" --bind-to none -n "$ranks" "$driver" "$how" "$failing" "${@:7}" \
    >"$folder/out" 2>"$folder/err"
  local status=$? took=$((SECONDS - start))
  echo >>"$folder/err" # a line even where all is well
  if [ "$status" != "$expected" ] || [ "$took" -gt "$limit" ] ||
    ! grep -aEq "$text" "$folder/err"; then
    echo "FAIL $how ${7:-}, rank $failing of $ranks: status $status, $took s, not \"$text\" in:"
    cat "$folder/err"
    failures=$((failures + 1))
  fi
}

# check HOW STATUS SECONDS TEXT
check() {
  for ranks in 2 3; do
    for failing in 0 $((ranks - 1)); do
      once "$ranks" "$failing" "$@"
    done
  done
}

timed='NCCL has waited 1 s \(\[runtime\] gpu_timeout\) for the other GPUs: a rank, its GPU or the network between them hangs, or is late; see .*; for ranks that are only late set gpu_timeout higher$'
check none 0 10 '^$'
check absent 74 15 "^atlasvi: error: rank [0-9]+, starting NCCL: $timed"
check start 74 10 '^atlasvi: error: rank R, starting NCCL: NCCL: unhandled system error \('
check late 74 15 "^atlasvi: error: rank [0-9]+, losses of an epoch: $timed"
once 3 2 freeing 74 15 "^atlasvi: error: rank [0-9]+, arrays, to be freed: $timed"
remote='remote process exited or there was a network error: made to fail by the test; NCCL_DEBUG=INFO tells more, \[runtime\] gpu_sums = mpi does without NCCL$'
check error 74 10 "^atlasvi: error: rank R, losses of an epoch: NCCL: $remote"
check mute 74 20 "^atlasvi: error: rank R, losses of an epoch: NCCL: $remote"
check gpu 70 10 'an illegal memory access was encountered'
check early 74 10 "^atlasvi: error: rank R, sum of gradients: NCCL: $remote"
check error 74 10 '^standin: rank R aborts'
left='NCCL did not end, other ranks having left sums that it waits for; the GPU is left as it is$'
once 2 1 left 0 8 "^atlasvi: warning: rank 0: $left"
once 3 0 stuck 0 15 "^atlasvi: warning: rank 2: $left"

# the same from a graph; ncclCommAbort does not return while there is one
once 3 1 none 0 10 '^$' graph
once 3 2 late 74 20 "^atlasvi: error: rank [01], losses of an epoch: $timed" graph
once 3 2 error 74 20 "^atlasvi: error: rank R, losses of an epoch: NCCL: $remote" graph
[ "$failures" = 0 ] && echo "every failure ended all ranks"
