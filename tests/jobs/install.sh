#!/bin/bash
# shellcheck disable=SC2016 # the stand-ins expand their variables, not this script
# jobs/install.sh with stand-ins for dpkg-query, apt-get, sudo and id: what it would run, and when.
set -euo pipefail
: "${SOURCE:?the source tree}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/bin" "$work/jobs"
cp "$SOURCE/jobs/install.sh" "$work/jobs/"
cat >"$work/jobs/packages.txt" <<'LIST'
# a comment
[build] # why
one
two     # because
[tests]
three
LIST
for tool in bash awk env cat dirname mktemp rm tail; do
  ln -s "$(command -v $tool)" "$work/bin/$tool"
done
stand_in() { printf '#!%s\n%s\n' "$(command -v bash)" "$2" >"$work/bin/$1" && chmod 755 "$work/bin/$1"; }
# INSTALLED: what dpkg-query knows; WHO: the user's number; SUDO: yes if sudo works
stand_in dpkg-query 'case " $INSTALLED " in *" ${@: -1} "*) echo -n installed ;; *) exit 1 ;; esac'
stand_in apt-get 'echo "apt-get[$DEBIAN_FRONTEND] $*" >>"$LOG"'
stand_in id 'echo "$WHO"'
stand_in sudo '[ "$SUDO" = yes ] || exit 1; [ "$1" != -n ] || shift; echo "sudo $*" >>"$LOG"; exec "$@"'
stand_in true 'exit 0'

# check STATUS INSTALLED WHO SUDO GROUPS...: runs; output in $work/out, calls in $work/log
check() {
  local expected=$1 status=0
  : >"$work/log"
  INSTALLED=$2 WHO=$3 SUDO=$4 LOG=$work/log PATH=$work/bin "$work/jobs/install.sh" "${@:5}" \
    >"$work/out" 2>&1 </dev/null || status=$?
  [ $status = "$expected" ] || { echo "FAILED: $*: status $status" >&2; cat "$work/out" >&2; exit 1; }
}
has() { grep -qF -- "$2" "$work/$1" || { echo "FAILED: no '$2' in $1:" >&2; cat "$work/$1" >&2; exit 1; }; }
nothing() { [ ! -s "$work/$1" ] || { echo "FAILED: $1 is not empty:" >&2; cat "$work/$1" >&2; exit 1; }; }

check 0 'one two three' 1000 no build tests # all there: silent, for anybody
nothing log
nothing out
check 0 one 0 no build tests # root
has log 'apt-get[noninteractive] update -qq'
has log 'apt-get[noninteractive] install -y --no-install-recommends two three'
check 0 'one' 0 no build # only the group named
has log 'install -y --no-install-recommends two'
check 0 'two' 1000 yes build # sudo
has log 'sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends one'
check 69 'two' 1000 no build tests # sudo refuses
nothing log
has out '2 packages are missing, and neither root nor sudo is available'
has out 'apt-get install -y --no-install-recommends one three'
rm "$work/bin/sudo"
check 69 'two' 1000 no build # no sudo at all
nothing log
has out 'apt-get install -y --no-install-recommends one'
stand_in apt-get 'echo "E: no mirror"; exit 100' # what apt says is shown
check 69 'two' 0 no build
has out 'E: no mirror'
has out 'could not be installed'
check 64 '' 0 no nonsense
rm "$work/bin/apt-get"
check 69 '' 0 no build # not Debian
has out 'one two'
echo ok
