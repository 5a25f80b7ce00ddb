#!/bin/bash
# The fault shim itself: fault_shim_test.sh SHIM DRIVER
set -u
shim=$1
driver=$2
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
file=$folder/counts.dat
printf 'abcdefgh' >"$file"
failures=0

# expect WHAT STATUS STDOUT SHIM-LINES ATLASVI_SHIM CALL TIMES [BYTES]
expect() {
  what=$1 want_status=$2 want=$3 want_lines=$4 plan=$5
  shift 5
  got=$(timeout "${limit:-20}" env ATLASVI_SHIM="$plan" LD_PRELOAD="$shim" \
    OMPI_COMM_WORLD_RANK="${rank:-0}" "$driver" "$1" "$2" "$file" ${3:+"$3"} 2>"$folder/err")
  status=$?
  lines=$(grep -c '^shim: rank' "$folder/err")
  if [ "$status" != "$want_status" ] || [ "$got" != "$want" ] || [ "$lines" != "$want_lines" ]; then
    echo "FAIL $what: status $status (want $want_status), \"$got\" (want \"$want\")," \
      "$lines lines (want $want_lines)"
    cat "$folder/err"
    failures=$((failures + 1))
  fi
}

for call in read pread write pwrite fsync rename ftruncate; do
  expect "$call third" 0 'ok ok EIO ok' 1 "call=$call,after=3,errno=EIO" "$call" 4
  expect "$call for ever" 0 'ok ENOSPC ENOSPC' 2 "call=$call,after=2,times=all,errno=ENOSPC" "$call" 3
done
expect 'preadv counts as pread' 0 'EIO ok' 1 'call=pread' preadv 2
expect 'pwritev counts as pwrite' 0 'EIO ok' 1 'call=pwrite' pwritev 2
expect 'another call' 0 'ok ok' 0 'call=pread' pwrite 2
expect 'one of two calls' 0 'ok EIO' 1 'call=write|pwrite,after=2' pwrite 2
expect 'path that matches' 0 'EACCES ok' 1 'call=pwrite,path=counts.dat,errno=EACCES' pwrite 2
expect 'path that does not' 0 'ok ok' 0 'call=pwrite,path=results.h5ad' pwrite 2
expect 'rename path' 0 'EXDEV ok' 1 'call=rename,path=counts.dat,errno=EXDEV' rename 2
for call in malloc calloc aligned_alloc posix_memalign; do
  expect "$call large" 0 'ok ENOMEM ok' 1 'call=malloc,size=1000000,after=2' "$call" 3 2000000
  expect "$call small" 0 'ok ok ok' 0 'call=malloc,size=1000000,after=2' "$call" 3 4096
done
rank=1 expect 'the rank meant' 0 'EIO ok' 1 'rank=1,call=pread' pread 2
rank=0 expect 'another rank' 0 'ok ok' 0 'rank=1,call=pread' pread 2
expect 'the program meant' 0 'EIO' 1 "program=$(basename "$driver"),call=pread" pread 1
expect 'another program' 0 'ok' 0 'program=mpirun,call=pread' pread 1
expect 'kill' 137 'ok' 1 'call=pread,after=2,action=kill' pread 3
expect 'kill by timer' 137 'ok' 1 'call=timer,seconds=1.5,action=kill' sleep 9
expect 'sleep' 0 'ok ok' 1 'call=pread,action=sleep,seconds=0.2' pread 2
limit=1 expect "stop" 124 '' 1 'call=pread,action=stop' pread 2
expect 'unknown option' 127 '' 0 'calls=pread' pread 1
expect 'unknown call' 127 '' 0 'call=pred' pread 1
expect 'unknown errno' 127 '' 0 'call=pread,errno=EWHAT' pread 1

if [ "$failures" != 0 ]; then
  exit 1
fi
echo "the shim strikes where it should"
