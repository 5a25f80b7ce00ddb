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
# A build folder of its own: where there is CUDA, this one is for two kinds of GPU, as all kinds take
# minutes more.
cmake --preset ci ${ATLASVI_CUDA_ARCHITECTURES+"-DATLASVI_CUDA_ARCHITECTURES=$ATLASVI_CUDA_ARCHITECTURES"}
cmake --build --preset ci
if ctest --test-dir build/ci -N -R '^gpu_resources$' | grep gpu_resources >/dev/null; then
  ctest --test-dir build/ci -V -R '^gpu_resources$' # registers, spills, shared memory a kernel
fi
exec ctest --test-dir build/ci --output-on-failure -j "$(nproc)" "$@"
