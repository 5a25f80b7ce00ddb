#!/bin/bash
# Everything that only a machine with a GPU can tell, in one command of at most 8 minutes: tests of the
# operations, training beside the cpu backend's, both under compute-sanitizer, then the benchmark
# beside scvi-tools or its training step in PyTorch.
#
#   tests/gpu/run.sh OUT [--bundle FOLDER | --build FOLDER] [--minutes 8] [--parts ops,speed]
#     OUT       folder for gpu.jsonl (the record, a line for everything that was found), gpu.json and
#               gpu.md (record and table, made of it after every line); refused if it has a gpu.jsonl
#     --bundle  what tests/gpu/bundle.sh made elsewhere, for a machine without MPI and HDF5
#     --build   everything built here; default of both: the bundle that this lies in, or build/cuda or
#               build/release of this source tree, the first with the cuda backend
#     --parts   some of facts,ops,parity,sanitizer,speed
#   tests/gpu/run.sh OUT --assemble FILE.jsonl...    gpu.json and gpu.md of what such runs have left, each
#             in a folder of its own, with the same program on GPUs of the same name
#
# It can be ended at any time: what has been found is in OUT, and the table says what is missing. Needs
# python3 with numpy and h5py; PyTorch and scipy for the comparison. Changes no setting of the GPU.
# Exit status: 0 all well, 1 something failed, 75 nothing failed, but parts of what was asked for are
# left out for want of time or of a tool (gpu.md lists them; --parts does them, --assemble makes one
# table of both), 77 there is no GPU, 143 ended by SIGTERM.
set -euo pipefail
here=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
python=${PYTHON3:-python3}
"$python" -c 'import numpy, h5py' || { echo "run.sh: $python needs numpy and h5py" >&2; exit 69; }
exec "$python" -B "$here/machine/main.py" "$@"
