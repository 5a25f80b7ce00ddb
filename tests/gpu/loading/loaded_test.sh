#!/bin/bash
# The program finds libatlasvi_cuda.so and all that the module needs of it, and runs without a GPU.
set -euo pipefail
text=$("$ATLASVI" version)
echo "$text"
grep -q '^backends .*cuda' <<<"$text" || { echo "error: the module has not been loaded" >&2; exit 1; }
