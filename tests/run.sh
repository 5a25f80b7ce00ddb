#!/bin/bash
# Installs what build and tests need, builds, and runs every test. Options go to ctest, e.g. -R io.
#   tests/run.sh [--no-install] [ctest options]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ "${1-}" = --no-install ]; then
  shift
else
  jobs/install.sh build tests
fi
# Where there is CUDA, for one kind of GPU: seven kinds take minutes. `cmake --preset cuda` builds all.
cmake --preset release -DATLASVI_CUDA_ARCHITECTURES="${ATLASVI_CUDA_ARCHITECTURES-90}"
cmake --build --preset release
if ctest --test-dir build/release -N -R '^gpu_resources$' | grep gpu_resources >/dev/null; then
  ctest --test-dir build/release -V -R '^gpu_resources$' # registers, spills, shared memory a kernel
fi
exec ctest --test-dir build/release --output-on-failure -j "$(nproc)" "$@"
