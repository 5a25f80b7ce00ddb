#!/bin/bash
# The job templates against a real Slurm of one node, made here on the loopback: sbatch accepts them as
# they are (--test-only), and a job's exit status is the program's. Skipped (77) where Slurm cannot run.
set -euo pipefail
: "${SOURCE:?the source tree}"

skip() { echo "skipped: $*"; exit 77; }
PATH=$PATH:/usr/sbin:/sbin
for program in munged slurmctld slurmd sbatch sinfo; do
  command -v $program >/dev/null || skip "$program is not installed"
done
[ "$(id -u)" = 0 ] || skip "starting Slurm's daemons needs root"

T=$(mktemp -d /tmp/atlasvi-slurm.XXXXXX)
stop_pid() { [ ! -s "$1" ] || kill "$(cat "$1")" 2>/dev/null || true; }
stop() {
  stop_pid "$T/run/slurmd.pid"
  stop_pid "$T/run/slurmctld.pid"
  for _ in $(seq 40); do
    [ -e "$T/run/slurmctld.pid" ] || [ -e "$T/run/slurmd.pid" ] || break
    sleep 0.25
  done
  stop_pid "$T/run/munged.pid"
  rm -rf "$T"
}
trap stop EXIT

# Two free ports, so that another Slurm on this machine is left alone.
base=$((20000 + $$ % 10000))
host=$(hostname -s)
mkdir -p "$T"/{run,state,log,gpu,spool,tmp}
chmod 755 "$T" "$T/run"
chmod 700 "$T/state"
(umask 077 && head -c 1024 /dev/urandom >"$T/munge.key")
for gpu in 0 1 2 3; do # stand-ins: Slurm wants character devices; 1,3 is the null device
  mknod "$T/gpu/nvidia$gpu" c 1 3 || skip "mknod is not allowed here"
done
echo "Name=gpu File=$T/gpu/nvidia[0-3]" >"$T/gres.conf"
cat >"$T/slurm.conf" <<CONF
ClusterName=trial
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort=$base
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
AuthInfo=socket=$T/run/munge.sock
StateSaveLocation=$T/state
SlurmdSpoolDir=$T/spool
TmpFS=$T/tmp
SlurmctldPidFile=$T/run/slurmctld.pid
SlurmdPidFile=$T/run/slurmd.pid
SlurmctldLogFile=$T/log/slurmctld.log
SlurmdLogFile=$T/log/slurmd.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SchedulerParameters=bf_interval=2,sched_interval=2
KillWait=5
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((base + 1)) CPUs=64 RealMemory=256000 Gres=gpu:4 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=1-0 State=UP
CONF
export SLURM_CONF=$T/slurm.conf
start() { "$@" >>"$T/log/start" 2>&1 || { cat "$T"/log/* >&2; skip "$1 does not start here"; }; }
start munged --key-file="$T/munge.key" --socket="$T/run/munge.sock" --pid-file="$T/run/munged.pid" \
  --log-file="$T/log/munged.log" --seed-file="$T/log/munged.seed" --num-threads=2
start slurmctld -c
start slurmd -N n1
for _ in $(seq 60); do
  [ "$(sinfo -h -t idle -o %D 2>/dev/null)" != 1 ] || break
  sleep 0.5
done
[ "$(sinfo -h -t idle -o %D)" = 1 ] || { tail -n 20 "$T"/log/* >&2; skip "Slurm's node does not come up"; }

for template in cpu gpu; do
  sbatch --test-only "$SOURCE/jobs/$template.slurm" run.ini || { echo "FAILED: jobs/$template.slurm" >&2; exit 1; }
done
# The check can fail: more GPUs than there are.
if sbatch --test-only --gpus-per-node=5 "$SOURCE/jobs/gpu.slurm" run.ini 2>/dev/null; then
  echo "FAILED: sbatch accepts what the node does not have" >&2
  exit 1
fi

# A program that tells what it was given, and ends with status 65.
cat >"$T/program" <<'PROGRAM'
#!/bin/bash
echo "rank $SLURM_PROCID of $SLURM_NTASKS, cpus $SLURM_CPUS_PER_TASK, gpus ${CUDA_VISIBLE_DEVICES-none}: $*"
exit 65
PROGRAM
chmod 755 "$T/program"
run_job() { # TEMPLATE EXPECTED-LINE...: four ranks, those lines, status 65
  local status=0 template=$1 line
  shift
  (cd "$T" && ATLASVI=$T/program sbatch -W --output=job.log "$SOURCE/jobs/$template.slurm" \
    'a file.ini' train.seed=1) >/dev/null || status=$?
  [ $status = 65 ] || { echo "FAILED: $template: status $status, expected 65" >&2; cat "$T/job.log" >&2; exit 1; }
  for line in "$@"; do
    grep -qxF "$line" "$T/job.log" || { echo "FAILED: $template: no line: $line" >&2; cat "$T/job.log" >&2; exit 1; }
  done
  [ "$(grep -c '^rank' "$T/job.log")" = 4 ]
}
run_job cpu 'rank 0 of 4, cpus 8, gpus none: a file.ini train.seed=1' \
  'rank 3 of 4, cpus 8, gpus none: a file.ini train.seed=1'
# as many ranks as GPUs, and every rank sees all of them (the program takes its own by node-local rank)
run_job gpu
[ "$(grep -c ', gpus 0,1,2,3: ' "$T/job.log")" = 4 ] ||
  { echo "FAILED: not every rank sees the node's GPUs" >&2; cat "$T/job.log" >&2; exit 1; }
grep -q 'a file.ini train.seed=1 runtime.backend=cuda$' "$T/job.log"
echo "templates accepted, status passed on"
