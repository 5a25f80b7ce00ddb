#!/bin/bash
# run.sh, bundle.sh and jobs/gpu.slurm find the build that has the cuda backend: build/cuda, else
# build/release if that has it, else they say how it is built.
#   usage: find_test.sh, with the source tree in $SOURCE
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
tree=$folder/tree
mkdir -p "$tree" "$folder/bin"
ln -s "$SOURCE/tests" "$tree/tests"
# shellcheck disable=SC2016 # for later
printf '#!/bin/bash\necho "$3"\n' >"$folder/bin/srun" # --mpi --cpus-per-task PROGRAM ...
chmod 755 "$folder/bin/srun"
fail() { echo "error: $1" >&2; exit 1; }

# What each of the three uses, or says.
used_by_run() {
  CUDA_VISIBLE_DEVICES='' "$tree/tests/gpu/run.sh" "$folder/out" --parts facts 2>&1 || true
  if [ -e "$folder/out/gpu.jsonl" ]; then cat "$folder/out/gpu.jsonl"; fi
}
used_by_bundle() { "$tree/tests/gpu/bundle.sh" "$folder/bundle" --no-archive 2>&1 || true; }
used_by_job() {
  env -u ATLASVI "$@" PATH="$folder/bin:$PATH" SLURM_SUBMIT_DIR="$tree" SLURM_CPUS_PER_TASK=1 \
    bash "$SOURCE/jobs/gpu.slurm" run.ini 2>&1 || true
}
expect() { # WHAT PART TEXT
  [[ $3 == *"$2"* ]] || fail "$1: no \"$2\" in: $3"
}

# A build of which only the version is asked: it says which it is.
offer() { # NAME
  mkdir -p "$tree/build/$1/src"
  printf '#!/bin/bash\necho "the program of build/%s"\n' "$1" >"$tree/build/$1/src/atlasvi"
  chmod 755 "$tree/build/$1/src/atlasvi"
}
expect_all() { # NAME
  rm -rf "$folder/out" "$folder/bundle"
  expect run.sh "the program of build/$1" "$(used_by_run)"
  expect bundle.sh "no $tree/build/$1/tests/gpu/gpu_device_*: build everything" "$(used_by_bundle)"
  expect gpu.slurm "$tree/build/$1/src/atlasvi" "$(used_by_job)"
}

offer release # without the cuda backend
how='no cuda backend in build/cuda or build/release'
for text in "$(used_by_run)" "$(used_by_bundle)" "$(used_by_job)"; do
  expect "no cuda backend" "$how" "$text"
  expect "no cuda backend" "cmake --preset cuda && cmake --build --preset cuda" "$text"
done
expect "ATLASVI given" "/elsewhere/atlasvi" "$(used_by_job ATLASVI=/elsewhere/atlasvi)"
for name in release cuda; do # then both are there
  offer "$name"
  : >"$tree/build/$name/src/libatlasvi_cuda.so"
  expect_all "$name"
done
echo "build/cuda is used, else build/release, else the command that builds it is named"
