#!/bin/bash
# A bundle runs where there is no MPI, no HDF5 and no OpenBLAS: the program alone and on 1 and 2 ranks,
# with the same answer, also where /dev/shm is small. It finds the very libraries of CUDA that its programs
# name. A bundle is refused where something is missing. Packed, what its programs share is there once.
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

# A library of CUDA is looked for by the name that the programs have for it, each by itself.
for name in $(objdump -p "$root/bundle/programs/libatlasvi_cuda.so" | awk '$1 == "NEEDED" { print $2 }'); do
  case $name in
    libcudart.* | libcublas.* | libnccl.*) grep -qxF "$name" "$root/bundle/needed" || fail "$name is not looked for" ;;
  esac
done
[ "$(wc -l <"$root/bundle/needed")" -ge 3 ] || fail "looked for: $(<"$root/bundle/needed")"
search=$folder/search
packages=$search/lib/python3.12/dist-packages/nvidia
mkdir -p "$search"/{cuda/lib64,bin} "$packages"/{first,second}/lib
cp "$SOURCE/tests/gpu/bundle_run.sh" "$search/run"
printf '%s\n' libcudart.so.777 libcublas.so.777 >"$search/needed"
touch "$search/cuda/lib64"/{libcudart.so.777,libcublas.so.7} "$packages/first/lib/libcublas.so.77" \
  "$packages/second/lib/libcublas.so.777" "$search/bin/python3"
chmod 755 "$search/bin/python3"
# shellcheck disable=SC2016 # for the shell that is run
found=$(env -u LD_LIBRARY_PATH CUDA_HOME="$search/cuda" PATH="$search/bin:$PATH" bash "$search/run" \
  bash -c 'echo "$LD_LIBRARY_PATH"')
[ "$found" = "$search/lib:$search/cuda/lib64:$packages/second/lib" ] || fail "libraries are looked for in $found"

# Two programs with the same 9 MB, which is more than xz looks back unasked, are packed as one.
mkdir -p "$folder/build"/{src,tests/gpu}
head -c 9437184 /dev/urandom >"$folder/build/src/libatlasvi_cuda.so"
cp "$folder/build/src/libatlasvi_cuda.so" "$folder/build/tests/gpu/gpu_device_ops"
touch "$folder/build/src/atlasvi"
"$SOURCE/tests/gpu/bundle.sh" "$folder/packed" --build "$folder/build"
mkdir "$folder/unpacked"
(cd "$folder/unpacked" && "${PYTHON3:-python3}" -m tarfile -e "$folder/packed.tar.xz")
diff -r "$folder/packed" "$folder/unpacked/packed"
"$folder/unpacked/packed/bin/mpirun" --version >"$folder/text" || fail "the unpacked bundle does not run"
rest=$(tar -C "$folder/packed" -c --exclude programs . | xz | wc -c)
size=$(wc -c <"$folder/packed.tar.xz")
[ "$size" -lt $((9437184 * 3 / 2 + rest)) ] || fail "$size bytes are packed, $rest of them of other files"

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
    mount -t proc proc "$1/proc" && mount --rbind /sys "$1/sys" && mount --rbind /dev "$1/dev" &&
      mount -t tmpfs -o size=64k none "$1/dev/shm" || exit
    exec chroot "$1" /bin/bash -c "cd /; exec -c /bin/bash /work.sh \"\""' bash "$root"
else
  echo "note: mounting is not allowed here: an empty environment in place of a machine of its own, /dev/shm as it is"
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
