#!/bin/bash
# Packs built programs and what they need, so that they run on an x86-64 Linux machine that has CUDA
# but neither MPI nor HDF5 nor OpenBLAS.
#
#   tests/gpu/bundle.sh OUT [--build FOLDER] [--no-archive] [PROGRAM...]
#     OUT           a new folder; OUT.tar.xz beside it is the same, packed
#     --build       where everything has been built (default: build/cuda or build/release, the first
#                   with the cuda backend); with -DATLASVI_CUDA_ARCHITECTURES=90, the other machine's
#                   alone, the bundle is the smaller
#     --no-archive  leave OUT.tar.xz out
#     PROGRAM       more programs of any kind
#   On the other machine, after tar -xf OUT.tar.xz (which needs xz) or python3 -m tarfile -e OUT.tar.xz:
#     OUT/bin/atlasvi ...                      as ever; so are OUT/bin/mpirun and the gpu_device tests
#     OUT/tests/gpu/run.sh RESULTS
#
# glibc, libstdc++, CUDA, NCCL and the driver are left to the other machine: its glibc has to be at
# least as new as this one's. Open MPI has to be of version 4 here.
set -euo pipefail

source_tree=$(cd "${BASH_SOURCE[0]%/*}/../.." && pwd)
left_there='^(linux-vdso|ld-linux|lib(c|m|pthread|rt|dl|resolv|util|mvec|stdc[+][+]|gcc_s)[.-]'
left_there+='|lib(cuda|nvidia-ml)[.-])'
cuda='^lib(cudart|cublas|cublasLt|nccl)[.-]'

usage() { sed -n '5,11s/^#   \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 64; }
stop() { echo "bundle.sh: $1" >&2; exit "${2-69}"; }

out='' build='' archive=yes more=()
while [ $# -gt 0 ]; do
  case $1 in
    --build) [ $# -ge 2 ] || usage; build=$2; shift ;;
    --no-archive) archive=no ;;
    -*) usage ;;
    *) if [ -z "$out" ]; then out=$1; else more+=("$1"); fi ;;
  esac
  shift
done
[ -n "$out" ] || usage
for folder in "$source_tree"/build/{cuda,release}; do
  if [ -z "$build" ] && [ -e "$folder/src/libatlasvi_cuda.so" ]; then build=$folder; fi
done
[ -n "$build" ] || stop "no cuda backend in build/cuda or build/release of $source_tree: build it \
with \`cmake --preset cuda && cmake --build --preset cuda\`, or name a folder with --build" 66
[ ! -e "$out" ] || stop "$out is there already: name a new folder" 73

# Copies the libraries behind a file, each once; stops where one of them is not found. Those that the other
# machine has to have of CUDA and NCCL are listed in OUT/needed, by the very names that are looked for.
take_libraries() { # FILE
  local name path
  while read -r name path; do
    if [[ $name =~ $cuda ]] && ! grep -qxF "$name" "$out/needed"; then echo "$name" >>"$out/needed"; fi
    if [[ $name =~ $left_there || $name =~ $cuda || -e $out/lib/$name ]]; then continue; fi
    [ "$path" != not ] || stop "$1 needs $name, which is not found here" 66
    cp -L "$path" "$out/lib/$name"
    strip --strip-unneeded "$out/lib/$name" 2>/dev/null || true # not every library lets itself be
  done < <(ldd "$1" | awk '$2 == "=>" { print $1, $3 }')
}

take() { # FILE FOLDER
  [ -r "$1" ] || stop "no $1: build everything first, name the folder with --build" 66
  cp -L "$1" "$2/"
  strip --strip-unneeded "$2/${1##*/}" 2>/dev/null || true
  take_libraries "$1"
}

# In bin/ a program by its name alone: runs the one in programs/ with the bundle's environment.
offer() { # NAME
  # shellcheck disable=SC2016 # for later
  printf '#!/bin/bash\nexec "${BASH_SOURCE[0]%%/*}/../run" %s "$@"\n' "$1" >"$out/bin/$1"
  chmod 755 "$out/bin/$1"
}

# --- Open MPI and PMIx ----------------------------------------------------------------------------
place_of() { ompi_info --path "$1" --parsable | sed -n 's/^path:[^:]*://p' | head -n 1; }

take_mpi() {
  local launcher plugins plugin pmix
  command -v ompi_info >/dev/null || stop "no ompi_info here: only Open MPI can be bundled"
  ompi_info --version | grep -q '^Open MPI v4\.' ||
    stop "this is not Open MPI 4: $(ompi_info --version | head -n 1)"
  for launcher in orterun orted; do
    take "$(readlink -f "$(command -v $launcher)")" "$out/programs"
  done
  ln -s orterun "$out/programs/mpirun"
  plugins=$(place_of pkglibdir)
  mkdir -p "$out/ompi/lib/openmpi" "$out/ompi/share"
  for plugin in "$plugins"/mca_*.so; do
    case ${plugin##*/} in # networks and schedulers; what a single machine does not have
      *ofi* | *psm* | *ucx* | *openib* | *usnic* | *cuda* | *_lsf* | *_tm* | *gridengine*) ;;
      *) take "$plugin" "$out/ompi/lib/openmpi" ;;
    esac
  done
  ln -s ../programs "$out/ompi/bin"
  cp -rL "$(place_of pkgdatadir)" "$out/ompi/share/openmpi"
  # PMIx, which Open MPI may have within itself: then nothing of its plugins links to it.
  pmix=$(ldd "$plugins"/mca_pmix_ext*.so 2>/dev/null | awk '$1 ~ /^libpmix/ { print $3; exit }')
  if [ -n "$pmix" ]; then
    pmix=$(readlink -f "$pmix")
    mkdir -p "$out/pmix/lib/pmix" "$out/pmix/share"
    for plugin in "${pmix%/*}"/pmix/*.so; do
      take "$plugin" "$out/pmix/lib/pmix"
    done
    cp -rL "${pmix%/*}/../share/pmix" "$out/pmix/share/"
  fi
}

# --- everything -------------------------------------------------------------------------------------
mkdir -p "$out"/{bin,lib,programs,tests/gpu}
out=$(cd "$out" && pwd)
: >"$out/needed"
cp "$source_tree/tests/gpu/bundle_run.sh" "$out/run"
take "$build/src/atlasvi" "$out/programs"
take "$build/src/libatlasvi_cuda.so" "$out/programs"
for program in "$build"/tests/gpu/gpu_device_* "${more[@]}"; do
  take "$program" "$out/programs"
done
if [ -e "$build/tests/gpu/libatlasvi_activity.so" ]; then # and CUPTI, which CUDA may come without
  take "$build/tests/gpu/libatlasvi_activity.so" "$out/lib"
fi
take_mpi
for program in "$out"/programs/*; do
  case ${program##*/} in *.so | orte*) ;; *) offer "${program##*/}" ;; esac
done
cp -r "$source_tree/tests/gpu/run.sh" "$source_tree/tests/gpu/machine" "$out/tests/gpu/"
for folder in bench run; do
  mkdir "$out/tests/$folder"
  cp "$source_tree/tests/$folder"/*.py "$out/tests/$folder/"
done
find "$out/tests" -name __pycache__ -prune -exec rm -r {} +
du -sh "$out"
if [ $archive = yes ]; then
  # The programs hold the same kernels, many MB of them: a dictionary that reaches from one to the next.
  tar -C "${out%/*}" --sort=name -c "${out##*/}" | xz --lzma2=preset=6,dict=128MiB >"$out.tar.xz"
  du -h "$out.tar.xz"
fi
