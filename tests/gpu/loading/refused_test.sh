#!/bin/bash
# A module of another build, one that cannot be loaded and none at all are told apart, each with
# what to do: refused_test.sh OTHER_TYPES NO_INTERFACE NEEDS (modules)
set -u
unset LD_LIBRARY_PATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cp "$ATLASVI" "$folder/atlasvi"
cd "$folder" || exit 1 # a run path before installation ends in the current folder
module=$folder/libatlasvi_cuda.so
failures=0

# says TEXT NAME [COMMAND...]: what COMMAND, or the one before, has printed
says() {
  local text=$1 name=$2
  [ $# -le 2 ] || "${@:3}" >"$folder/out" 2>&1
  grep -Fq -- "$text" "$folder/out" && return
  echo "FAIL $name: not \"$text\" in:"
  cat "$folder/out"
  failures=$((failures + 1))
}

# refused NAME REASON: by `version` and by a run
refused() {
  says "CUDA      $2" "$1, version" "$folder/atlasvi" version
  says 'NCCL      not loaded' "$1, NCCL"
  says 'backends  cpu, reference' "$1, backends"
  says "atlasvi: error: [runtime] backend = cuda: $2; cpu and reference are there" "$1, run" \
    "$folder/atlasvi" "$folder/run.ini"
}

printf '[data]\ninput = %s/none.h5ad\n[output]\npath = %s/out.h5ad\n[runtime]\nbackend = cuda\n' \
  "$folder" "$folder" >"$folder/run.ini"
refused 'no module' 'not in this build (no libatlasvi_cuda.so beside the program, nor in ../lib/atlasvi): for GPUs build with cmake --preset cuda'

another="$module is of another build of atlasvi than this program; build both with cmake --preset cuda, and keep or install them together"
cp "$1" "$module" && refused 'other types' "$another"
cp "$2" "$module" && refused 'no interface' "$another"

advice='; let LD_LIBRARY_PATH name the folder of a library that is not found, or build again here with cmake --preset cuda'
cp "$3" "$module"
refused 'a library is missing' "libatlasvi_cuda.so is there but cannot be loaded: libav_module_needed.so: cannot open shared object file: No such file or directory$advice"
: >"$module"
refused 'an empty file' "libatlasvi_cuda.so is there but cannot be loaded: $module: file too short$advice"

[ "$failures" = 0 ] && echo "every module that does not fit is refused"
