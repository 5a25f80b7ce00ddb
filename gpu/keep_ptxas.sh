#!/bin/sh
# Runs nvcc; what ptxas says of each kernel goes to OBJECT.ptxas, all else to stderr.
object=
previous=
for word in "$@"; do
  [ "$previous" = -o ] && object=$word
  previous=$word
done
log=${object:-/dev/null}.ptxas
[ -n "$object" ] || exec "$@"
"$@" 2>"$log.all"
status=$?
filter='^ptxas info|^    [0-9]+ bytes stack frame|^$'
grep -E "$filter" "$log.all" >"$log"
grep -Ev "$filter" "$log.all" >&2
rm -f "$log.all"
exit $status
