# shellcheck shell=bash
# Settings of your cluster. Copy this file to slurm/cluster.sh and edit the copy. The job scripts source it;
# slurm/submit.py and slurm/sbatch pass its #SBATCH lines to sbatch, wherever they stand. Quote values with spaces.

# Remove the second # of what your cluster requires, or to change the resources of the job scripts:
##SBATCH --partition=NAME
##SBATCH --account=NAME
##SBATCH --qos=NAME
##SBATCH --time=04:00:00
##SBATCH --cpus-per-task=4      # threads of a rank
##SBATCH --mem-per-cpu=4G       # or --mem, --mem-per-gpu; with these, take --mem-per-cpu out of run.sbatch, too
##SBATCH --gpus-per-task=1
##SBATCH --ntasks-per-node=48

# The environment, one of:
# module load python openmpi && source .venv/bin/activate
# source .venv/bin/activate
# source ~/miniforge3/bin/activate hpc_dmaml

# The launcher must belong to the MPI library that mpi4py uses; otherwise the job ends at the start. One of:
# LAUNCHER="mpirun"               # the environment's own; the default
# LAUNCHER="srun --mpi=pmi2"      # MPICH (also the one that pip installs) and its relatives
# LAUNCHER="srun --mpi=pmix"      # Open MPI; `srun --mpi=list` shows what your cluster has

# If the environment is an image (slurm/apptainer.def), the command that runs each rank in it:
# CONTAINER="apptainer exec hpc_dmaml.sif"
