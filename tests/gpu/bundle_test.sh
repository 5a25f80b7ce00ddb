#!/bin/bash
# A bundle runs where there is no MPI, no HDF5 and no OpenBLAS: the program alone and on 1 and 2 ranks,
# with the same answer. A bundle is refused where something is missing.
#   usage: bundle_test.sh BUILD
# Where mounting is allowed, that machine is a chroot with glibc, libstdc++ and bash alone; elsewhere
# it is this one with an empty environment, and the test says so.
set -euo pipefail
build=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
root=$folder/root
fail() { echo "error: $1" >&2; exit 1; }

mkdir "$root"
"$SOURCE/tests/gpu/bundle.sh" "$root/bundle" --build "$build" --no-archive
if "$SOURCE/tests/gpu/bundle.sh" "$root/bundle" --build "$build" 2>/dev/null; then
  fail "a folder that is there was overwritten"
fi
if "$SOURCE/tests/gpu/bundle.sh" "$folder/none" --build "$folder" >"$folder/text" 2>&1; then
  fail "a bundle was made of nothing"
fi
grep -q "no $folder/src/atlasvi: build everything first" "$folder/text" || fail "$(<"$folder/text")"

cat >"$root/work.sh" <<'WORK'
set -e
bundle=$1/bundle
cd "$1/tmp"
"$bundle/bin/atlasvi" --version
"$bundle/bin/atlasvi" simulate s.h5ad cells=400 genes=50
printf '[data]\ninput = s.h5ad\n[train]\nmax_epochs = 2\nn_epochs_kl_warmup = 1\n[runtime]\nbackend = cpu\n
reproducible = strict\nthreads = 1\nprogress = none\n' >run.ini
"$bundle/bin/atlasvi" run.ini output.path=alone.h5ad
for ranks in 1 2; do
  "$bundle/bin/mpirun" -n $ranks "$bundle/bin/atlasvi" run.ini output.path=$ranks.h5ad
done
WORK

# What every machine has; nothing of MPI and HDF5.
make_system() {
  local name
  mkdir -p "$root"/{bin,lib64,lib,tmp,proc,sys,dev}
  for name in c m dl rt pthread util resolv stdc++ gcc_s tinfo; do
    cp -L "$(ldconfig -p | awk -v name="lib$name.so." 'index($1, name) == 1 { print $NF; exit }')" "$root/lib/"
  done
  cp -L /lib64/ld-linux-x86-64.so.2 "$root/lib64/"
  cp -L "$(command -v bash)" "$root/bin/bash"
}

if unshare --mount true 2>/dev/null; then
  make_system
  # shellcheck disable=SC2016 # for the shell inside
  unshare --mount --pid --fork --kill-child bash -c '
    mount -t proc proc "$1/proc" && mount --rbind /sys "$1/sys" && mount --rbind /dev "$1/dev"
    exec chroot "$1" /bin/bash -c "cd /; exec -c /bin/bash /work.sh \"\""' bash "$root"
else
  echo "note: mounting is not allowed here: an empty environment in place of a machine of its own"
  mkdir "$root/tmp"
  env -i PATH=/bin LC_ALL=C bash "$root/work.sh" "$root"
fi

# The bundle's own run.sh, where there is no GPU to be seen.
status=0
CUDA_VISIBLE_DEVICES='' "$root/bundle/tests/gpu/run.sh" "$folder/results" >"$folder/text" ||
  status=$?
if [ $status != 77 ] || ! grep -q '"kind": "end"' "$folder/results/gpu.jsonl"; then
  fail "run.sh of the bundle: status $status: $(<"$folder/text")"
fi

PYTHONDONTWRITEBYTECODE=1 "${PYTHON3:-python3}" - "$root/tmp" <<'COMPARE'
import sys
import h5py
names = ["alone", "1", "2"]
codes = [h5py.File("%s/%s.h5ad" % (sys.argv[1], name))["obsm/X_scvi"][()] for name in names]
assert codes[0].shape == (400, 10) and abs(codes[0]).max() > 0
for name, other in zip(names, codes):
    assert other.tobytes() == codes[0].tobytes(), name
print("the same codes alone, on 1 rank and on 2")
COMPARE
