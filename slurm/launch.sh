# shellcheck shell=bash
# Shared by the job scripts: sets up the environment of your cluster, and defines `launch COMMAND`, which runs it on all
# ranks and ends the job. Source it in the root of the repository; DMAML_CLUSTER can replace slurm/cluster.sh.

# SLURM may signal this shell before the ranks have started: remember it.
asked='' cancelled=''
trap 'asked=yes' USR1
trap 'asked=yes cancelled=yes' TERM

if [ -n "${DMAML_CLUSTER:-}" ] && [ ! -f "$DMAML_CLUSTER" ]; then
  echo "launch.sh: there is no file $DMAML_CLUSTER, which DMAML_CLUSTER names" >&2
  exit 2
fi
: "${DMAML_CLUSTER:=slurm/cluster.sh}"
if grep -qs $'\r$' "$DMAML_CLUSTER"; then # bash would take it for part of the line's last word
  # shellcheck source=/dev/null
  source <(tr -d '\r' <"$DMAML_CLUSTER")
elif [ -f "$DMAML_CLUSTER" ]; then
  # shellcheck source=slurm/cluster.example.sh
  source "$DMAML_CLUSTER"
fi

launch() {
  local launcher code state
  local job=${SLURM_ARRAY_TASK_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID} # not the id of a whole array
  set +e                                                            # of cluster.sh: a signal would end this shell
  export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
  : "${LAUNCHER:=mpirun}"
  if [[ $LAUNCHER == srun* ]]; then
    export SRUN_CPUS_PER_TASK=$OMP_NUM_THREADS    # not for mpirun, which starts all ranks of a node as one task
    # If a rank dies, end the others; but not at once, as some may be about to exit with code 75.
    export SLURM_KILL_BAD_EXIT=0 SLURM_WAIT=30
    # MPICH names its shared memory by job and step, and a killed job leaves it behind: use up the old step numbers.
    for ((i = 0; i < ${SLURM_RESTART_COUNT:-0}; i++)); do srun --nodes=1 --ntasks=1 true; done
  fi

  if [ -n "$asked" ]; then
    code=75                                                         # as of ranks that have written the file
  else
    # shellcheck disable=SC2086  # the launcher is a command with its options, and so is the container
    $LAUNCHER -n "$SLURM_NTASKS" ${CONTAINER:-} "$@" &
    launcher=$!
    # SLURM signals only this shell. The launcher forwards USR1 to the ranks; they write the file and exit with 75.
    trap 'kill -USR1 "$launcher"' USR1
    # TERM comes from scancel, or when SLURM preempts this job, which it then requeues by itself.
    trap 'cancelled=yes; kill -USR1 "$launcher"' TERM
    [ -z "$asked" ] || kill -USR1 "$launcher"
    wait "$launcher"                                                # returns early at a signal
    while kill -0 "$launcher" 2>/dev/null; do wait "$launcher"; done
    wait "$launcher"
    code=$?
  fi
  trap - USR1 TERM
  if [ "$code" = 0 ]; then                                          # srun may return 0 after a node failure
    state=$(squeue --noheader --format=%T --jobs="$job" 2>/dev/null)
    case $state in
    COMPLETING | NODE_FAIL | PENDING | REQUEUE*)
      echo "$(date '+%F %T') SLURM has ended this job early: $state"
      code=1
      ;;
    esac
  fi
  echo "$(date '+%F %T') exit code $code"
  if [ "$code" = 75 ] && [ -z "$cancelled" ]; then
    scontrol requeue "$job"
    # SLURM ends this shell, and restarts it later.
    sleep 60
  fi
  exit "$code"                                                      # of the job
}
