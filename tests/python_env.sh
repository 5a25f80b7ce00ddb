#!/bin/sh
# Usage: python_env.sh BUILD_FOLDER
# Prints the path of a python that has the newest anndata and scanpy which PyPI offers for $PYTHON3
# (default: python3). Made once, in BUILD_FOLDER/python_env; their versions go to stderr.
# Exit status 77, with the reason on stderr, if it cannot be made (no network, no venv module).
set -u
env=${1:?usage: python_env.sh BUILD_FOLDER}/python_env
python=${PYTHON3:-python3}

skip() {
  echo "skipped: $1" >&2
  rm -rf "$env"
  exit 77
}

exec 9>"$env.lock"
flock 9 # tests run side by side
if [ ! -e "$env/complete" ]; then
  rm -rf "$env"
  "$python" -m venv "$env" >&2 || skip "$python cannot make a virtual environment"
  timeout 240 "$env/bin/python" -m pip install --quiet anndata scanpy >&2 ||
    skip "anndata and scanpy cannot be installed from PyPI"
  "$env/bin/python" -c 'import anndata, scanpy' >&2 || skip "what PyPI offers does not import"
  touch "$env/complete"
fi
"$env/bin/python" -c '
from importlib.metadata import version
print("python environment:", ", ".join(p + " " + version(p) for p in ("anndata", "scanpy")))
' >&2
echo "$env/bin/python"
