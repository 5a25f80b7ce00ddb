#!/bin/bash
# Whatever goes wrong in NCCL on one rank ends every rank soon, with a line that says what was
# waited for, and every rank that is not stuck aborts its communicator: ranks_test.sh DRIVER
set -u
driver=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
runs=0

# aborters RANKS FAILING WHO: the ranks that abort NCCL's communicator
aborters() {
  for ((rank = 0; rank < $1; ++rank)); do
    case $3 in
      all) echo "$rank" ;;
      others) [ "$rank" = "$2" ] || echo "$rank" ;;
    esac
  done
}

# judge FOLDER RANKS FAILING HOW STATUS SECONDS WHO TEXT [graph]: see once
judge() {
  local folder=$1 ranks=$2 failing=$3 how=$4 expected=$5 limit=$6 who=$7 text=${8//R/$3} start=$SECONDS
  mkdir "$folder"
  AV_STANDIN_ABORTS=${seen:+$folder} timeout -k 5 60 "$MPIRUN" --bind-to none -n "$ranks" "$driver" "$how" \
    "$failing" "${@:9}" >"$folder/out" 2>"$folder/err"
  local status=$? took=$((SECONDS - start)) why=
  local errors aborted
  errors=$(grep -ac '^atlasvi: error: ' "$folder/err")
  aborted=$(grep -ao '^standin: rank [0-9]* aborts$' "$folder/err" | tr -dc '0-9\n' | sort)
  echo >>"$folder/err" # a line even where all is well
  [ "$status" = "$expected" ] || why="status $status"
  [ "$took" -le "$limit" ] || why="$why, $took s"
  grep -aEq "$text" "$folder/err" || why="$why, not \"$text\""
  [ "$who" = some ] || [ "$who" = none ] || [ "$errors" = 1 ] || why="$why, $errors lines of error"
  [ "$who" = some ] || [ "$who" = any ] || [ "$aborted" = "$(aborters "$ranks" "$failing" "$who")" ] ||
    why="$why, not $who have aborted"
  if [ -n "$why" ]; then
    {
      echo "FAIL $how ${9:-}, rank $failing of $ranks: $why, in:"
      cat "$folder/err"
    } >"$folder/failure"
  fi
  touch "$folder/judged"
}

# once RANKS FAILING HOW STATUS SECONDS WHO TEXT [graph]: TEXT is a pattern of a line of some rank;
# R stands for the failing one. WHO aborts: all, or others than the failing one, which hangs; any,
# who is not looked at: each with one line of error in all; none; some, with any lines. $seen: NCCL
# tells the others of an abort, as ncclRemoteError. Two at a time, as most of them wait for most of
# their time.
once() {
  while [ "$(jobs -rp | wc -l)" -ge 2 ]; do
    wait -n
  done
  runs=$((runs + 1))
  judge "$folder/$runs" "$@" &
}

# check HOW STATUS SECONDS WHO TEXT, of all that may fail first; some_of the same, of some
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
seen=yes
some_of none 0 10 none '^$'
once 2 1 slow 0 10 none '^$'
some_of absent 74 15 all "^atlasvi: error: rank [0-9]+, starting NCCL: $timed"
some_of start 74 10 all '^atlasvi: error: rank R, starting NCCL: NCCL: unhandled system error \('
some_of late 74 15 others "^atlasvi: error: rank [0-9]+, losses of an epoch: $timed"
once 3 2 freeing 74 15 others "^atlasvi: error: rank [0-9]+, arrays, to be freed: $timed"
remote='remote process exited or there was a network error: made to fail by the test; NCCL_DEBUG=INFO tells more, \[runtime\] gpu_sums = mpi does without NCCL$'
check error 74 10 all "^atlasvi: error: rank R, losses of an epoch: NCCL: $remote"
some_of mute 74 20 all "^atlasvi: error: rank R, losses of an epoch: NCCL: $remote"
some_of gpu 70 10 all 'an illegal memory access was encountered'
some_of launch 70 10 all 'ranks_driver.c:[0-9]+.*an illegal memory access was encountered'
check cascade 70 10 all 'ranks_driver.c:[0-9]+.*an illegal memory access was encountered'
some_of two 70 10 all 'ranks_driver.c:[0-9]+.*an illegal memory access was encountered'
some_of slowly 74 10 all "^atlasvi: error: rank R, losses of an epoch: NCCL: $remote"
some_of early 74 10 all "^atlasvi: error: rank R, sum of gradients: NCCL: $remote"
some_of agreed 76 15 any '^atlasvi: error: what all agree upon$'
left='NCCL did not end \(other ranks may have left sums that it waits for\); the GPU is left as it is$'
once 2 1 left 0 8 some "^atlasvi: warning: rank 0: $left"
once 3 0 stuck 0 15 some "^atlasvi: warning: rank 2: $left"

# nobody but the failing rank says so, and no time-out comes
seen=
export AV_PATIENCE=40
once 3 1 error 74 10 all "^atlasvi: error: rank R, losses of an epoch: NCCL: $remote"
once 3 0 gpu 70 10 all 'an illegal memory access was encountered'
once 2 1 launch 70 10 all 'ranks_driver.c:[0-9]+.*an illegal memory access was encountered'
once 3 2 slowly 74 10 all "^atlasvi: error: rank R, losses of an epoch: NCCL: $remote"
once 3 1 start 74 10 all '^atlasvi: error: rank R, starting NCCL: NCCL: unhandled system error \('
seen=yes
unset AV_PATIENCE

# the same from a graph; ncclCommAbort does not return while there is one
once 3 1 none 0 10 none '^$' graph
once 3 2 late 74 20 others "^atlasvi: error: rank [01], losses of an epoch: $timed" graph
once 3 1 gpu 70 20 all 'an illegal memory access was encountered' graph
once 3 2 error 74 20 all "^atlasvi: error: rank R, losses of an epoch: NCCL: $remote" graph
wait
! cat "$folder"/*/failure 2>/dev/null && [ "$(find "$folder" -name judged | wc -l)" = "$runs" ] &&
  echo "every failure ended all ranks: $runs runs"
