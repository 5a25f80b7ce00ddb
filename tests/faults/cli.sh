#!/bin/sh
# shellcheck disable=SC2046  # $(mpi N) is a command of several words
# Exit statuses and outputs of every way to call the program. ATLASVI, MPIRUN and SOURCE are set.
set -u
export OMPI_MCA_pml=ob1 # looking for fast networks takes 0.2 s a start
if [ ! -x "${ATLASVI:-}" ]; then
  echo "skipped: no program (set ATLASVI)"
  exit 77
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
failures=0
checks=0

# expect WHAT STATUS STDOUT-PATTERN STDERR-PATTERN COMMAND...: extended regular expressions that a
# line of the stream must match; empty: the stream must hold no line of ours.
expect() {
  what=$1 status=$2 want_out=$3 want_err=$4
  shift 4
  timeout 60 "$@" >"$folder/out" 2>"$folder/err" </dev/null
  got=$?
  checks=$((checks + 1))
  problem=
  if [ "$got" != "$status" ]; then
    problem="exit status $got, expected $status"
  elif [ -n "$want_out" ] && ! grep -Eq -e "$want_out" "$folder/out"; then
    problem="no line of stdout matches $want_out"
  elif [ -z "$want_out" ] && [ -s "$folder/out" ]; then
    problem="stdout is not empty"
  elif [ -n "$want_err" ] && ! grep -Eq -e "$want_err" "$folder/err"; then
    problem="no line of stderr matches $want_err"
  elif [ -z "$want_err" ] && grep -q '^atlasvi:' "$folder/err"; then
    problem="stderr has lines of ours"
  elif [ "$status" -ge 64 ] && [ "$(grep -c '^atlasvi: error: ' "$folder/err")" -gt 1 ]; then
    problem="more than one error line"
  fi
  if [ -n "$problem" ]; then
    failures=$((failures + 1))
    echo "FAIL $what: $problem"
    echo "  $*"
    sed 's/^/  out| /' "$folder/out" | head -n 8
    sed 's/^/  err| /' "$folder/err" | head -n 8
  fi
}

# holds WHAT PATTERN: another line of the last call's stdout.
holds() {
  checks=$((checks + 1))
  if ! grep -Eq -e "$2" "$folder/out"; then
    failures=$((failures + 1))
    echo "FAIL $1: no line of stdout matches $2"
  fi
}

mpi() {
  ranks=$1
  shift
  echo "$MPIRUN --bind-to none -n $ranks $ATLASVI"
}

# shellcheck disable=SC2016  # expanded by the inner shell
expect 'nowhere to print to' 74 '' '^atlasvi: error: standard output: No space left on device$' \
  sh -c '"$ATLASVI" help >/dev/full'

expect 'no arguments' 64 '' '(atlasvi RUN\.ini|[Uu]sage)' "$ATLASVI"
expect 'no arguments, 2 ranks' 64 '' '(atlasvi RUN\.ini|[Uu]sage)' $(mpi 2)
expect '--help' 0 'atlasvi RUN\.ini' '' "$ATLASVI" --help
expect '--version' 0 '^atlasvi +[0-9]+\.[0-9]+' '' "$ATLASVI" --version
for part in 'revision' 'compiler' 'Open MPI|MPI' 'HDF5 +[0-9]' 'BLAS' 'CUDA' 'NCCL' \
  'backends.*(cpu.*reference|reference.*cpu)'; do
  holds "--version says $part" "$part"
done
expect '--version once from 3 ranks' 0 '^atlasvi +[0-9]' '' $(mpi 3) --version
if [ "$(grep -c '^atlasvi ' "$folder/out")" != 1 ]; then
  echo "FAIL --version is printed by more than one rank"
  failures=$((failures + 1))
fi

expect 'help' 0 'n_latent' '' "$ATLASVI" help
for key in data model train output runtime batch_key linear_decoder max_epochs mode reproducible; do
  holds "help names $key" "$key"
done
# Every key of the table, and no other.
expected=$(sed -n 's/^AV_KEY(\([a-z]*\), \([a-z_]*\),.*/\1.\2/p' "$SOURCE/src/config/config.def")
for name in $expected; do
  holds "help lists $name" "(^|[^a-z_])${name#*.}([^a-z_]|\$)"
done
for name in $expected; do
  expect "help $name" 0 "${name#*.}" '' "$ATLASVI" help "$name"
done
expect 'help KEY: sentence' 0 '[Dd]imensions of the latent space' '' "$ATLASVI" help n_latent
holds 'help KEY: default' '(^|[^0-9])10([^0-9]|$)'
holds 'help KEY: bound' '4096'
expect 'help of a choice' 0 'zinb.*nb.*poisson' '' "$ATLASVI" help gene_likelihood
expect 'help of an unknown key' 64 '' 'error: .*n_latnt.*did you mean.*n_latent' \
  "$ATLASVI" help n_latnt
expect 'help of nothing near' 64 '' 'error: .*qqqqqqq' "$ATLASVI" help qqqqqqq
expect 'help of two keys' 64 '' 'error: ' "$ATLASVI" help n_latent n_hidden
expect 'help --markdown' 0 '\|.*`?n_latent' '' "$ATLASVI" help --markdown

expect 'misspelt command' 64 '' 'error: chek: .*did you mean check' "$ATLASVI" chek run.ini
expect 'misspelt command, 2 ranks' 64 '' 'error: inspct: .*inspect' $(mpi 2) inspct file.h5ad
expect 'unknown option' 64 '' 'error: --verson.*--version' "$ATLASVI" --verson
expect 'option out of place' 64 '' 'error: --ranks' "$ATLASVI" run.ini --ranks 3
expect 'setting before the file' 64 '' 'error: model\.n_latent=3' \
  "$ATLASVI" model.n_latent=3 run.ini
expect 'check without a file' 64 '' 'error: check' "$ATLASVI" check
expect 'inspect without a file' 64 '' 'error: inspect' "$ATLASVI" inspect
expect 'inspect of two files' 64 '' 'error: b\.h5ad' "$ATLASVI" inspect a.h5ad b.h5ad
expect 'simulate without a file' 64 '' 'error: simulate' "$ATLASVI" simulate
expect 'absent INI' 66 '' 'error: .*absent\.ini' "$ATLASVI" "$folder/absent.ini"
expect 'check of a folder' 66 '' 'error: .* is a directory' "$ATLASVI" check "$folder"
expect 'check of an absent INI' 66 '' 'error: .*absent\.ini' "$ATLASVI" check "$folder/absent.ini"

expect 'simulate' 0 'sim\.h5ad' '' \
  "$ATLASVI" simulate "$folder/sim.h5ad" cells=300 genes=60 batches=2 seed=1
expect 'simulate over a file' 73 '' 'error: .*sim\.h5ad.*exists' \
  "$ATLASVI" simulate "$folder/sim.h5ad" cells=300 genes=60
expect 'simulate: unknown key' 64 '' 'error: .*cels.*cells' \
  "$ATLASVI" simulate "$folder/s.h5ad" cels=3
expect 'simulate: bad value' 64 '' 'error: .*cells.*many' \
  "$ATLASVI" simulate "$folder/s.h5ad" cells=many
expect 'inspect' 0 '300.*60' '' "$ATLASVI" inspect "$folder/sim.h5ad"
holds 'inspect: matrix' '(^|[^a-zA-Z])X .*(CSR|csr)'
holds 'inspect: counts' 'counts'
holds 'inspect: batch' 'batch'
holds 'inspect: a section to start from' '\[data\]'
expect 'inspect of an absent file' 66 '' 'error: .*absent\.h5ad: no such file' \
  "$ATLASVI" inspect "$folder/absent.h5ad"

cat >"$folder/run.ini" <<INI
[data]
input = $folder/sim.h5ad
batch_key = batch
[model]
n_latent = 3
[train]
max_epochs = 2
n_epochs_kl_warmup = 1
[output]
path = $folder/out.h5ad
INI
before=$(ls -A "$folder")
expect 'check' 0 'n_latent *= *3' '' "$ATLASVI" check "$folder/run.ini"
holds 'check: settings not given too' 'batch_size *= *128'
holds 'check: cells' '^ *cells +300$'
holds 'check: split' '^ *split +270 to train, 30 to validate, 0 to test'
holds 'check: genes' '^ *genes used +60 of 60$'
expect 'check --ranks' 0 '^Plan for 4 rank' '' "$ATLASVI" check "$folder/run.ini" --ranks 4
holds 'check: cells per rank' '^ *cells per rank +7[0-9] to 7[0-9]$'
holds 'check: memory' '^ *memory per rank .*[0-9] [KMG]iB'
holds 'check: bytes written' '^ *to be written +[0-9].* to .*out\.h5ad'
plain=$(sed -n 's/^ *to be written *\([0-9]*\).*/\1/p' "$folder/out")
holds 'check: free space' '^ *free there +[0-9].* it fits'
holds 'check: shards' '^ *virtual shards +300$'
holds 'check: it promises to change nothing' '^Nothing was changed'
expect 'check --ranks of many' 0 '^Plan for 1,?000 rank' '' \
  "$ATLASVI" check "$folder/run.ini" --ranks 1000
holds 'check: memory of a rank does not grow with their number' \
  '^ *memory per rank +at most 25[0-9]\.[0-9] MiB'
expect 'check --ranks=2' 0 '^Plan for 2 rank' '' "$ATLASVI" check "$folder/run.ini" --ranks=2
expect 'check --ranks 0' 64 '' 'error: --ranks 0' "$ATLASVI" check "$folder/run.ini" --ranks 0
expect 'check --ranks x' 64 '' 'error: --ranks x' "$ATLASVI" check "$folder/run.ini" --ranks x
expect 'check with an override' 0 'n_latent *= *5' '' \
  "$ATLASVI" check "$folder/run.ini" model.n_latent=5
expect 'check of too many training cells' 78 '' 'train_size: 301 training cells' \
  "$ATLASVI" check "$folder/run.ini" train.train_size=301
expect 'check of a split column that is none' 65 '' 'obs/label: holds "type_0" and [0-9]+ more where' \
  "$ATLASVI" check "$folder/run.ini" train.split_key=label
expect 'check: warm-up in epochs' 0 'max_epochs = 2' 'train.n_epochs_kl_warmup .1, half of the epochs' \
  "$ATLASVI" check "$folder/run.ini" train.n_epochs_kl_warmup=9
sed '/n_epochs_kl_warmup/d' "$folder/run.ini" >"$folder/steps.ini"
expect 'check: warm-up in steps' 0 'max_epochs = 2' 'train.n_steps_kl_warmup .3, half of the steps' \
  "$ATLASVI" check "$folder/steps.ini" train.n_steps_kl_warmup=90
rm "$folder/steps.ini"
expect 'check of a copy' 0 '^ *to be written' '' "$ATLASVI" check "$folder/run.ini" output.mode=copy
copied=$(sed -n 's/^ *to be written *\([0-9]*\).*/\1/p' "$folder/out")
checks=$((checks + 1))
size=$(($(wc -c <"$folder/sim.h5ad") / 1024))
if [ $((copied - plain)) -lt $((size - 1)) ] || [ $((copied - plain)) -gt $((size + 1)) ]; then
  echo "FAIL check of a copy: $copied KiB, without the input's $size KiB $plain KiB"
  failures=$((failures + 1))
fi
expect 'check on 2 ranks' 0 '^Plan for 2 rank' '' $(mpi 2) check "$folder/run.ini"
if [ "$before" != "$(ls -A "$folder")" ]; then
  echo "FAIL check changed its folder: $(ls -A "$folder")"
  failures=$((failures + 1))
fi
expect 'run' 0 'n_latent|epoch' '' $(mpi 2) "$folder/run.ini" runtime.progress=lines
holds 'run: build' '^ *build +.*Open MPI.*HDF5 [0-9.]+.*BLAS'
holds 'run: a line an epoch' 'epoch +2/2'
if [ ! -s "$folder/out.h5ad" ] || [ ! -s "$folder/out.model.h5" ]; then
  echo "FAIL run wrote no results or no model: $(ls -A "$folder")"
  failures=$((failures + 1))
fi

echo "$checks checks, $failures failed"
[ "$failures" = 0 ]
