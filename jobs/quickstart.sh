#!/bin/bash
# From a bare Debian 12 to a fitted model: installs what is missing, builds, simulates cells with known
# factors and batches, fits LDVAE with `mpirun -n 2`, and compares what was found with what was planted.
set -euo pipefail
source_tree=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

usage() {
  cat <<USAGE
usage: jobs/quickstart.sh [--folder DIR] [--ranks N] [--cells N] [--epochs N] [--no-install] [--program FILE]
  --folder DIR    where data and results go (default: quickstart-run, here)
  --ranks N       MPI ranks (default 2)
  --cells N       cells to simulate (default 5000)
  --epochs N      epochs to train (default 100)
  --no-install    use what is installed
  --program FILE  use this atlasvi instead of building one
USAGE
}

folder=quickstart-run ranks=2 cells=5000 epochs=100 install=yes program=
while [ $# -gt 0 ]; do
  case $1 in
    --no-install) install=no ;;
    --folder | --ranks | --cells | --epochs | --program)
      [ $# -ge 2 ] || { usage >&2; exit 64; }
      printf -v "${1#--}" %s "$2"
      shift
      ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 64 ;;
  esac
  shift
done

say() { printf '\n== %s\n' "$*"; }

if [ $install = yes ]; then
  say "packages"
  "$source_tree/jobs/install.sh" build
  echo "all there"
fi
SECONDS=0

if [ -z "$program" ]; then
  say "build"
  (cd "$source_tree" && cmake --preset release >/dev/null && cmake --build --preset release --target atlasvi)
  program=$source_tree/build/release/src/atlasvi
fi
program=$(realpath "$program")
built=$SECONDS

mkdir -p "$folder"
cd "$folder"
say "simulate $cells cells with 5 known factors and 2 batches"
"$program" simulate simulated.h5ad "cells=$cells" library_mean=1000 overwrite=yes

say "fit LDVAE on $ranks ranks"
cat >run.ini <<INI
[data]
input = simulated.h5ad
batch_key = batch
labels_key = label

[model]
linear_decoder = yes
n_latent = 5

[train]
max_epochs = $epochs
n_epochs_kl_warmup = $((epochs / 2 > 0 ? epochs / 2 : 1))
train_size = 0.9

[output]
path = fitted.h5ad
overwrite = yes
INI
# What Open MPI wants to hear on a laptop or in a container: root is fine, so are more ranks than cores;
# ranks are not tied to one core each, give it up while they wait, and need no right to read each
# other's memory.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
export OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_btl_vader_single_copy_mechanism=none
mpirun -n "$ranks" "$program" run.ini
fitted=$SECONDS

say "what was found"
"$source_tree/jobs/compare_factors.py" simulated.h5ad fitted.h5ad

say "where it is"
cat <<WHERE
$PWD/simulated.h5ad   the counts, and what they were drawn from
$PWD/run.ini          the settings of the run: start your own from it
$PWD/fitted.h5ad      obsm/X_scvi, loadings, history: open it with scanpy
build $built s, simulate and fit $((fitted - built)) s, together $SECONDS s (without packages)
WHERE
