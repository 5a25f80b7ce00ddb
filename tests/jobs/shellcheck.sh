#!/bin/bash
# Every script of the project passes shellcheck.
set -euo pipefail
: "${SOURCE:?the source tree}"
command -v shellcheck >/dev/null || { echo "skipped: shellcheck is not installed"; exit 77; }
cd "$SOURCE"
mapfile -t scripts < <(find jobs tests .ci -type f \( -name '*.sh' -o -name '*.slurm' -o -path .ci/run \) | sort)
[ ${#scripts[@]} -ge 8 ]
shellcheck "${scripts[@]}"
echo "${#scripts[@]} scripts"
