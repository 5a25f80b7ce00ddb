#!/bin/bash
# What gpu/CMakeLists.txt makes of the CUDA and NCCL that it finds, on nvccs that only answer
# questions: as `nvcc --list-gpu-arch` of CUDA 12.4 and 13.0, and `ptxas --help` of 11.8, 12.0 and
# 12.9.
#   configure_test.sh SCRATCH CMAKE [NVCC NCCL_H NCCL_LIBRARY RANDOM123]
# With what was found here, the last four, also what is made of a CUDA that works and an NCCL that is new.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
gpu=$(cd "$here/../../../gpu" && pwd)
scratch=$1
cmake=$2
rm -rf "$scratch"
mkdir -p "$scratch"
unset CUDACXX CUDA_HOME CUDA_PATH CUDAARCHS NCCL_HOME
failed=0

# nvcc VERSION ARCHITECTURE...: a folder's name, in which bin/nvcc is such an nvcc
nvcc() {
  local folder=$scratch/cuda-$1
  mkdir -p "$folder/bin"
  cat >"$folder/bin/nvcc" <<end
#!/bin/sh
case \$1 in
--version) echo 'Cuda compilation tools, release $1, V$1.1' ;;
--list-gpu-arch) for known in ${*:2}; do echo compute_\$known; done ;;
*) echo 'error: it compiles nothing' >&2; exit 1 ;;
esac
end
  chmod +x "$folder/bin/nvcc"
  echo "$folder"
}

expect() { # WHAT EXPECTED GOT
  if [ "$2" != "$3" ]; then
    printf 'error: %s:\n  expected %s\n  got      %s\n' "$1" "$2" "$3" >&2
    failed=1
  fi
}

old="50 52 53 60 61 62 70 72 75 80 86 87 89 90"
# shellcheck disable=SC2086 # words
{
  cuda_11=$(nvcc 11.8 35 37 $old)
  cuda_12=$(nvcc 12.0 $old)
  nvcc 12.4 $old
  nvcc 12.9 $old 100 101 103 120 121
} >/dev/null
nvcc 13.0 75 80 86 87 88 89 90 100 110 103 120 121 >/dev/null
nvcc 20.0 200 >/dev/null

# --- architectures --------------------------------------------------------------------------------
asked() { # VERSION WANTED EXPECTED
  expect "nvcc $1 asked for '$2'" "$1: $3" \
    "$("$cmake" -DGPU="$gpu" -DNVCC="$scratch/cuda-$1/bin/nvcc" -DWANTED="$2" \
      -P "$here/architectures.cmake" 2>&1)"
}
asked 11.8 "" "CUDA 12.0 or later (nvcc is of 11.8)"
asked 12.0 "" "75 80 86 89 90"
asked 12.4 "" "75 80 86 89 90"
asked 12.9 "" "75 80 86 89 90 100"
asked 13.0 "" "75 80 86 89 90 100"
asked 12.4 "90;80" "80 90"
asked 13.0 "100;90" "90 100"
asked 12.9 "90a" "90a"
asked 12.4 "100;80" "nvcc for ATLASVI_CUDA_ARCHITECTURES 100 (nvcc of CUDA 12.4 knows $old)"
asked 13.0 "hopper" "nvcc for ATLASVI_CUDA_ARCHITECTURES hopper (nvcc of CUDA 13.0 knows 75 80 86 87 88 \
89 90 100 103 110 120 121)"
asked 20.0 "" "nvcc for any of 75 80 86 89 90 100 (nvcc of CUDA 20.0 knows 200)"

# --- what is said ---------------------------------------------------------------------------------
# configured HOME NCCL AUTO|ON: the lines about the backend, in one
configured() {
  rm -rf "$scratch/build"
  CUDA_HOME=$1 NCCL_HOME=$2 "$cmake" -S "$here" -B "$scratch/build" -DGPU="$gpu" \
    -DATLASVI_CUDA="$3" >"$scratch/log" 2>&1 && echo "exit 0" >>"$scratch/log"
  tr -s ' \n' ' ' <"$scratch/log" | grep -oE '(cuda backend: left out|ATLASVI_CUDA=ON, but).*' || true
}
contains() { # WHAT PART TEXT
  [[ $3 == *"$2"* ]] || expect "$1" "... $2 ..." "$3"
}
mkdir -p "$scratch/nccl/include" "$scratch/nccl/lib"
printf '#define NCCL_%s\n' 'MAJOR 2' 'MINOR 12' 'PATCH 7' >"$scratch/nccl/include/nccl.h"
: >"$scratch/nccl/lib/libnccl.so"
nccl_old="no NCCL 2.14 or later ($scratch/nccl/include/nccl.h is of 2.12.7)"

said=$(configured "$cuda_11" "$scratch/nccl" AUTO)
contains "an old CUDA and NCCL, AUTO" \
  "left out, no CUDA 12.0 or later ($cuda_11/bin/nvcc is of 11.8), $nccl_old" "$said"
contains "an old CUDA and NCCL, AUTO" "exit 0" "$said"
said=$(configured "$cuda_11" "$scratch/nccl" ON)
contains "an old CUDA and NCCL, ON" \
  "there is no CUDA 12.0 or later ($cuda_11/bin/nvcc is of 11.8), $nccl_old. Say where" "$said"
[[ $said != *"exit 0"* ]] || expect "an old CUDA and NCCL, ON" "an error" "exit 0"
mv "$scratch/nccl/lib/libnccl.so" "$scratch/nccl/lib/libnccl.so.2"
mkdir "$cuda_12/lib"
: >"$cuda_12/lib/libnccl.so"
said=$(configured "$cuda_12" "$scratch/nccl" AUTO)
contains "an nvcc that compiles nothing" "left out, no working nvcc ($scratch/build/CMakeFiles" "$said"
expect "NCCL of NCCL_HOME, another beside CUDA" "$scratch/nccl/lib/libnccl.so.2" \
  "$(sed -n 's/^NCCL_LIBRARY:FILEPATH=//p' "$scratch/build/CMakeCache.txt")"

# --- tried ----------------------------------------------------------------------------------------
real=("${@:3}")
new=$scratch/new
# tried MINOR OPTION...: with NCCL 99.MINOR; the build folder is that of the time before
tried() {
  sed -i "s/^#define NCCL_MINOR .*/#define NCCL_MINOR $1/" "$new/include/nccl.h"
  CUDACXX=${real[0]} "$cmake" -S "$here" -B "$scratch/tried" -DGPU="$gpu" -DREAL=ON -DATLASVI_CUDA=AUTO \
    -DNCCL_INCLUDE_DIR="$new/include" -DNCCL_LIBRARY="${real[2]}" -DRANDOM123_INCLUDE="${real[3]}" \
    "${@:2}" >"$scratch/log" 2>&1 && echo "exit 0" >>"$scratch/log"
  tr -s ' \n' ' ' <"$scratch/log"
}
if [ ${#real[@]} = 4 ]; then
  mkdir -p "$new/include"
  printf '#define NCCL_%s\n' 'MAJOR 99' 'MINOR 0' 'PATCH 0' >"$new/include/version.h"
  {
    cat "$new/include/version.h"
    echo '#warning "of a kind that nobody knew"'
    grep -vE '^#define NCCL_(MAJOR|MINOR|PATCH) ' "${real[1]}/nccl.h"
  } >"$new/include/nccl.h"
  said=$(tried 1)
  contains "a header that warns" "Trying CUDA" "$said"
  contains "a header that warns" "NCCL 99.1.0, architectures" "$said"
  last=
  [[ $said =~ ([0-9]+)-real\;([0-9]+)-virtual && ${BASH_REMATCH[1]} = "${BASH_REMATCH[2]}" ]] &&
    last=${BASH_REMATCH[2]}
  expect "PTX for the last architecture" yes "$([ -n "$last" ] && echo yes)"
  contains "a header that warns" "exit 0" "$said"
  contains "a header that warns" "nobody knew" "$(cat "$scratch/tried/cuda_tried.log" 2>&1)"
  [[ $(tried 1) != *Trying* ]] || expect "the same again" "nothing new" "$(<"$scratch/log")"

  cp "$new/include/version.h" "$new/include/nccl.h" # and nothing else
  said=$(tried 2)
  contains "a header without what is needed" "left out, it does not compile with CUDA" "$said"
  contains "a header without what is needed" "NCCL 99.2.0 ($scratch/tried/cuda_tried.log)" "$said"
  contains "a header without what is needed" "exit 0" "$said"
  contains "a header without what is needed" "ncclComm_t" "$(cat "$scratch/tried/cuda_tried.log" 2>&1)"
  for option in ATLASVI_WERROR ATLASVI_CUDA; do # who asks for it sees it fail
    said=$(tried 2 -DATLASVI_WERROR=OFF -D$option=ON)
    contains "the same with $option=ON" "NCCL 99.2.0, architectures" "$said"
  done
else
  echo "note: no CUDA here: that it is tried is not tested"
fi

# --- warnings --------------------------------------------------------------------------------------
# Errors in what CI builds, and not in what a user builds.
tree=$here/../../..
(cd "$tree" && "$cmake" --preset release -B "$scratch/user" -DATLASVI_CUDA=OFF >/dev/null)
expect "a user's build: commands with -Werror" 0 "$(grep -c Werror "$scratch/user/compile_commands.json")"
(cd "$tree" && "$cmake" --preset ci -B "$scratch/user" -DATLASVI_CUDA=OFF >/dev/null)
expect "CI's build: commands for src without -Werror" "" \
  "$(grep '"command".* -c .*/src/' "$scratch/user/compile_commands.json" | grep -v Werror | head -n 1)"
expect "CI's build: some have it" yes "$(grep -q Werror "$scratch/user/compile_commands.json" && echo yes)"
exit $failed
