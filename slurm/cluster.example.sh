# shellcheck shell=bash
# What is special about your cluster. Copy this file to slurm/cluster.sh and edit the copy: the job scripts source it.
# Partition, account and GPUs stand in the #SBATCH lines of the scripts, or behind sbatch.

# The environment, one of:
# module load python openmpi && source .venv/bin/activate
# source .venv/bin/activate
# source ~/miniforge3/bin/activate hpc_dmaml

# The launcher must belong to the MPI library that mpi4py uses: one that does not is refused at the start. One of:
# LAUNCHER="mpirun"               # the environment's own; the default
# LAUNCHER="srun --mpi=pmi2"      # MPICH (also the one that pip installs) and its relatives
# LAUNCHER="srun --mpi=pmix"      # Open MPI; `srun --mpi=list` shows what your cluster has
