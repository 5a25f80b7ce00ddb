#!/bin/bash
# The choice of threads on this machine, under mpirun and taskset: threads_test.sh DRIVER
set -u
driver=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
failures=0
unset OMP_NUM_THREADS SLURM_CPUS_PER_TASK SLURM_NTASKS
cores=$(nproc)

# expect WHAT LINE (of stdout and stderr together), after run COMMAND
run() {
  timeout 60 "$@" >"$folder/out" 2>&1
  status=$?
  tr -d '\r' <"$folder/out" >"$folder/text"
}
expect() {
  if [ "$status" != 0 ] || ! grep -qxF -- "$2" "$folder/text"; then
    echo "FAIL $1: status $status, no line \"$2\" in"
    cat "$folder/text"
    failures=$((failures + 1))
  fi
}
expect_no_warning() {
  if grep -q 'warning' "$folder/text"; then
    echo "FAIL $1: a warning in"
    cat "$folder/text"
    failures=$((failures + 1))
  fi
}

first=$(awk '/Cpus_allowed_list/ { split($2, a, /[-,]/); print a[1] }' /proc/self/status)
run taskset -c "$first" "$driver"
expect "one core" "rank 0: 1 threads from cores / ranks"
expect_no_warning "one core"
run taskset -c "$first" "$driver" 2
expect "two threads on a core" "rank 0: 2 threads from runtime.threads"
expect "two threads on a core" "atlasvi: warning: this process may use 1 core but 2 threads were asked for \
(runtime.threads): ask for fewer, or give it more cores (taskset, srun --cpus-per-task)"

run env SLURM_CPUS_PER_TASK=1 OMP_NUM_THREADS=2 SLURM_NTASKS=3 "$driver"
expect "Slurm" "rank 0: 1 threads from SLURM_CPUS_PER_TASK"
expect "Slurm tasks" "atlasvi: warning: Slurm gave this job 3 tasks but MPI found 1 rank: start the program \
with mpirun, or srun --mpi=pmix"

if [ "$cores" -lt 2 ]; then
  echo "one core here: binding cannot be seen"
  exit $((failures == 0 ? 77 : 1))
fi
# Each rank of mpirun --bind-to core alone on a core
run "$MPIRUN" --bind-to core -n 2 "$driver" 2
expect "bound" "rank 0: 2 threads from runtime.threads"
expect "bound" "rank 1: 2 threads from runtime.threads"
expect "bound" "atlasvi: warning: rank 0 (and 1 more): mpirun has bound this rank to 1 core but 2 threads were \
asked for (runtime.threads): use mpirun --bind-to none or --map-by socket:PE=2"
run "$MPIRUN" --bind-to core -n 1 "$driver"
expect "bound, nothing asked" "rank 0: 1 threads from cores / ranks"
grep -q "warning: mpirun has bound this rank to 1 of $cores cores: with mpirun --bind-to none" \
  "$folder/text" || { echo "FAIL no hint about binding"; failures=$((failures + 1)); cat "$folder/text"; }
run "$MPIRUN" --bind-to none -n 2 "$driver"
expect_no_warning "unbound"
expect "unbound" "$(grep '^rank 1: ' "$folder/text" | sed 's/^rank 1/rank 0/')"
[ "$failures" = 0 ] && echo "threads as they should be"
