#!/usr/bin/env bash
# Boot a throw-away SLURM cluster of virtual nodes on this host, on the loopback interface only. Needs root, not
# systemd; installs Debian's SLURM where it is missing. A second call finds the running daemons and only checks them.
# Exits with 77 where SLURM cannot be had.
#   SLURM_TEST_DIR    folder for configuration, state and logs   (default ${TMPDIR:-/tmp}/slurm-test)
#   SLURM_TEST_NODES  number of virtual nodes                    (default 2)
#   SLURM_TEST_CPUS   CPUs that each node claims to have         (default 16)
#   SLURM_TEST_PROCTRACK  how a job's processes are known    (default linuxproc; cgroup needs cgroup v1)
#   SLURM_TEST_PORT   port of slurmctld; the nodes take the next (default 16817)
# The last line printed is the command that points sbatch, srun, … to this cluster.
set -euo pipefail
dir=${SLURM_TEST_DIR:-${TMPDIR:-/tmp}/slurm-test}
nodes=${SLURM_TEST_NODES:-2}
cpus=${SLURM_TEST_CPUS:-16}
port=${SLURM_TEST_PORT:-16817}
proctrack=${SLURM_TEST_PROCTRACK:-linuxproc}
export SLURM_CONF=$dir/slurm.conf

# ---- packages
unavailable() { echo "cluster_up: $1" >&2; exit 77; }
[ "$(id -u)" = 0 ] || unavailable "only root can boot a SLURM cluster"
missing=()
for package in munge slurmctld slurmd slurm-client; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if [ "${#missing[@]}" -gt 0 ]; then
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >/dev/null ||
    unavailable "apt-get cannot install ${missing[*]}"
fi

# ---- folders and configuration
mkdir -p "$dir"/{munge,ctld,run,log}
chmod 755 "$dir" "$dir"/{munge,ctld,run,log}
for i in $(seq "$nodes"); do mkdir -p "$dir/spool.n$i" "$dir/tmp.n$i"; done
host=$(hostname -s)
memory_mib=$(awk -v nodes="$nodes" '/MemTotal/ {print int(0.9 * $2 / 1024 / nodes)}' /proc/meminfo)
# MPICH under srun names its shared memory after the job, and a killed job leaves it in /dev/shm: so a new cluster must
# not hand out the job numbers of an old one.
[ -s "$dir/first_job" ] || shuf -i 1000-60000000 -n 1 >"$dir/first_job"

# No cgroup is used, but the newer kind would be looked for, and needs systemd.
echo CgroupPlugin=cgroup/v1 >"$dir/cgroup.conf"
cat >"$SLURM_CONF.new" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser=root
SlurmdUser=root
SlurmctldPort=$port
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdPidFile=$dir/run/slurmd.%n.pid
SlurmdLogFile=$dir/log/slurmd.%n.log
SlurmdSpoolDir=$dir/spool.%n
TmpFS=$dir/tmp.%n
StateSaveLocation=$dir/ctld
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$dir/munge/munge.sock,cred_expire=5
NodeName=n[1-$nodes] NodeHostname=$host NodeAddr=127.0.0.1 \
  Port=[$((port + 1))-$((port + nodes))] CPUs=$cpus RealMemory=$memory_mib
# Jobs in main take the nodes from those in scavenge, which are warned (--signal) and requeued.
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=10 PriorityTier=10 PreemptMode=OFF
PartitionName=scavenge Nodes=ALL MaxTime=INFINITE DefaultTime=10 PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
# Virtual nodes claim more than the host has.
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=64
TaskPlugin=task/none
ProctrackType=proctrack/$proctrack
SwitchType=switch/none
MpiDefault=none
JobRequeue=1
KillOnBadExit=1
AccountingStorageType=accounting_storage/none
FirstJobId=$(cat "$dir/first_job")
# A sweep of five points needs two arrays.
MaxArraySize=4
# Jobs start at once, end soon when killed, and can be asked about for an hour.
SchedulerParameters=bf_interval=5,sched_interval=5,batch_sched_delay=0,kill_invalid_depend
KillWait=5
MinJobAge=3600
EnforcePartLimits=ALL
PropagateResourceLimits=NONE
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=10
MessageTimeout=10
UnkillableStepTimeout=30
CONF

alive() { [ -s "$1" ] && kill -0 "$(cat "$1")" 2>/dev/null; }

if alive "$dir/run/slurmctld.pid" && ! cmp -s "$SLURM_CONF" "$SLURM_CONF.new"; then
  echo "cluster_up: the running cluster has another configuration; run cluster_down.sh first" >&2
  exit 1
fi
mv "$SLURM_CONF.new" "$SLURM_CONF"

# ---- daemons
[ -s "$dir/munge/munge.key" ] || (umask 077 && head -c 1024 /dev/urandom >"$dir/munge/munge.key")
if ! alive "$dir/run/munged.pid"; then
  rm -f "$dir/munge/munge.sock"*
  munged --force --key-file="$dir/munge/munge.key" --socket="$dir/munge/munge.sock" \
    --pid-file="$dir/run/munged.pid" --log-file="$dir/log/munged.log" --seed-file="$dir/munge/munge.seed"
fi
alive "$dir/run/slurmctld.pid" || slurmctld -f "$SLURM_CONF"
for i in $(seq "$nodes"); do
  alive "$dir/run/slurmd.n$i.pid" || slurmd -f "$SLURM_CONF" -N "n$i"
done

# ---- wait until every node is up
up=0
for _ in $(seq 300); do
  up=$(sinfo -h -p main -N -o '%T' 2>/dev/null | grep -cE '^(idle|mixed|allocated|completing)$' || true)
  if [ "$up" = "$nodes" ]; then
    sinfo -o '%P %D %t %c %m %N'
    echo "export SLURM_CONF=$SLURM_CONF"
    exit 0
  fi
  sleep 0.1
done
echo "cluster_up: $up of $nodes nodes came up in 30 s" >&2
sinfo -R >&2 || true
tail -n 20 "$dir"/log/*.log >&2
exit 1
