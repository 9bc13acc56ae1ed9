#!/usr/bin/env bash
# Stop the cluster that cluster_up.sh booted in SLURM_TEST_DIR: its jobs, its daemons (by their pid files), and what its
# jobs may have left running. With --purge the folder goes too.
set -uo pipefail
dir=${SLURM_TEST_DIR:-${TMPDIR:-/tmp}/slurm-test}
export SLURM_CONF=$dir/slurm.conf

daemon() { # PID_FILE NAME: print the pid, if that process is the daemon that it should be
  local pid
  pid=$(cat "$1" 2>/dev/null) && [ -n "$pid" ] && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$2" ] && echo "$pid"
}
stop() { # PID…: end these processes, gently first
  local pid
  [ $# -gt 0 ] && kill "$@" 2>/dev/null
  for _ in $(seq 50); do
    for pid; do grep -qs '^State:.*[^Z] (' "/proc/$pid/status" && sleep 0.1 && continue 2; done
    return
  done
  kill -9 "$@" 2>/dev/null
}

if daemon "$dir/run/slurmctld.pid" slurmctld >/dev/null; then
  timeout 10 scancel --user="$(id -un)"
  for _ in $(seq 100); do [ -z "$(timeout 5 squeue -h -o %A)" ] && break; sleep 0.1; done
fi

pids=()
for file in "$dir"/run/slurmctld.pid "$dir"/run/slurmd.*.pid; do
  name=$(basename "$file")
  pid=$(daemon "$file" "${name%%.*}") && pids+=("$pid")
done
stop "${pids[@]}"
pid=$(daemon "$dir/run/munged.pid" munged) && stop "$pid"

# Processes that outlived their job: their environment says that they ran on this cluster.
for environment in /proc/[0-9]*/environ; do
  pid=${environment//[!0-9]/}
  if [ "$pid" != $$ ] && grep -zqsxF "SLURM_CONF=$SLURM_CONF" "$environment" &&
    grep -zqs '^SLURM_JOB_ID=' "$environment" && kill -9 "$pid" 2>/dev/null; then
    echo "cluster_down: killed process $pid, left over from a job"
  fi
done
rm -f "$dir"/run/*.pid
[ "${1:-}" = --purge ] && rm -rf "$dir"
exit 0
