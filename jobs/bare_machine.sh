#!/bin/bash
# Shows that the README's two commands work on a bare Debian 12: makes one with debootstrap, copies the
# checkout in, and runs in it
#   - quickstart.sh as a user without sudo: must say what would be installed and stop;
#   - quickstart.sh and tests/run.sh as root;
#   - quickstart.sh as that user again, now that the packages are there.
# Needs root, the package debootstrap, and a Debian mirror (by default the one this machine uses, with
# its apt settings for proxies). Run it whenever packages.txt changes.
set -euo pipefail
source_tree=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

usage() {
  cat <<USAGE
usage: jobs/bare_machine.sh [--root DIR] [--mirror URL] [--only user|quickstart|tests|again]... [--keep]
  --root DIR    where the system is made (default: a new folder in /var/tmp); an existing one is used as it is
  --mirror URL  Debian mirror
  --only STEP   only this step, may be repeated
  --keep        leave the system there
USAGE
}

root='' mirror='' keep=no steps=()
while [ $# -gt 0 ]; do
  case $1 in
    --keep) keep=yes ;;
    --only=*) steps+=("${1#--only=}") ;;
    --root | --mirror | --only)
      [ $# -ge 2 ] || { usage >&2; exit 64; }
      case $1 in
        --root) root=$2 ;;
        --mirror) mirror=$2 ;;
        --only) steps+=("$2") ;;
      esac
      shift
      ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 64 ;;
  esac
  shift
done
[ ${#steps[@]} -gt 0 ] || steps=(user quickstart tests again)

if [ "$(id -u)" != 0 ] || ! command -v debootstrap >/dev/null; then
  echo "bare_machine.sh: needs root, and the package debootstrap" >&2
  exit 69
fi
# Mounts and processes of its own: whatever is mounted or started below ends with this script.
if [ "${ATLASVI_BARE_NAMESPACE-}" != yes ]; then
  same=("${steps[@]/#/--only=}")
  [ $keep = no ] || same+=(--keep)
  ATLASVI_BARE_NAMESPACE=yes exec unshare --mount --pid --fork --kill-child --mount-proc "$0" \
    ${root:+--root "$root"} ${mirror:+--mirror "$mirror"} "${same[@]}"
fi

root=${root:-$(mktemp -d /var/tmp/atlasvi-bare.XXXXXX)}
# The first mirror in this machine's lists whose suite is bookworm.
# shellcheck disable=SC2016 # $(SITE) is apt's
mirror=${mirror:-$(apt-get indextargets --format '$(SITE) $(RELEASE)' 2>/dev/null |
  awk '$2 == "bookworm" { print $1; exit }')}
mirror=${mirror:-http://deb.debian.org/debian}

mounts=()
cleanup() {
  local i
  for ((i = ${#mounts[@]} - 1; i >= 0; --i)); do
    umount -R -l "${mounts[i]}" || true
  done
  mounts=()
  [ $keep = yes ] || rm -rf --one-file-system "$root"
}
trap cleanup EXIT

mount_in() { # mount's options..., target below the root
  local target=$root/${*: -1}
  mkdir -p "$target"
  mount "${@:1:$#-1}" "$target"
  mounts+=("$target")
}

make_system() {
  local proxy
  proxy=$(apt-config dump --format '%v' Acquire::http::Proxy)
  http_proxy=${http_proxy:-$proxy} debootstrap --variant=minbase bookworm "$root" "$mirror" \
    >"$root.log" 2>&1 || { tail -n 20 "$root.log" >&2; exit 1; }
  rm "$root.log"
  # What this machine's apt needs to reach the mirror; names; no daemons in here.
  apt-config dump | grep -E '^Acquire::(http|https|Retries|Check-Valid-Until|Check-Date|ForceIPv4)' \
    >"$root/etc/apt/apt.conf.d/90host" || true
  cp /etc/resolv.conf /etc/hosts "$root/etc/"
  printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
  chmod 755 "$root/usr/sbin/policy-rc.d"
  chroot "$root" useradd --create-home visitor
}

# Tracked and new files, as they are; in a place of its own for each user.
copy_checkout() { # OWNER FOLDER
  rm -rf "${root:?}/$2"
  mkdir -p "$root/$2"
  (cd "$source_tree" && git -c safe.directory="$source_tree" ls-files -z -co --exclude-standard) |
    (cd "$source_tree" && while IFS= read -r -d '' file; do
      [ ! -e "$file" ] || printf '%s\0' "$file"
    done) | sort -zu | tar -C "$source_tree" --null -T - -c | tar -x --no-same-owner -C "$root/$2"
  chroot "$root" chown -R "$1:" "/$2"
}

inside() { # USER FOLDER COMMAND...
  local user=$1 folder=$2
  shift 2
  chroot "$root" setpriv --reuid "$user" --regid "$user" --init-groups \
    env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 \
    HOME="/home/$user" USER="$user" sh -c "cd /$folder && exec \"\$@\"" sh "$@"
}

results=()
failed=no
step() { # NAME EXPECTED-STATUS USER FOLDER COMMAND...
  local name=$1 expected=$2 status=0 started=$SECONDS
  shift 2
  [[ " ${steps[*]} " = *" $name "* ]] || return 0
  printf '\n#### %s: %s\n' "$name" "${*:3}"
  inside "$@" || status=$?
  local verdict=ok
  if [ $status != "$expected" ]; then
    verdict="FAILED (status $status, expected $expected)" failed=yes
  fi
  results+=("$(printf '%-12s %5d s  %s' "$name" $((SECONDS - started)) "$verdict")")
}

started=$SECONDS
if [ ! -e "$root/etc/debian_version" ]; then
  mkdir -p "$root"
  chmod 755 "$root" # everyone's / in there
  make_system
fi
results+=("$(printf '%-12s %5d s  ok: Debian %s from %s' debootstrap $((SECONDS - started)) \
  "$(cat "$root/etc/debian_version")" "$mirror")")
mount_in -t proc proc proc
mount_in --rbind /sys sys
mount_in --rbind /dev dev
mount_in -t tmpfs -o mode=1777 tmpfs tmp
copy_checkout root srv/atlasvi
copy_checkout visitor home/visitor/atlasvi

step user 69 visitor home/visitor/atlasvi ./jobs/quickstart.sh
step quickstart 0 root srv/atlasvi ./jobs/quickstart.sh
step tests 0 root srv/atlasvi ./tests/run.sh
step again 0 visitor home/visitor/atlasvi ./jobs/quickstart.sh

printf '\n#### result\n'
printf '%s\n' "${results[@]}"
[ $failed = no ]
