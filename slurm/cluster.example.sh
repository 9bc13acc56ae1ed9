# shellcheck shell=bash
# What is special about your cluster. Copy this file to slurm/cluster.sh and edit the copy. The job scripts source it;
# slurm/submit.py and slurm/sbatch give its #SBATCH lines to sbatch, wherever they stand. A value with spaces has quotes.

# Without the second # where your cluster asks for it, or to have other resources than the job scripts':
##SBATCH --partition=NAME
##SBATCH --account=NAME
##SBATCH --qos=NAME
##SBATCH --time=04:00:00
##SBATCH --cpus-per-task=4      # threads of a rank
##SBATCH --gpus-per-task=1
##SBATCH --ntasks-per-node=48

# The environment, one of:
# module load python openmpi && source .venv/bin/activate
# source .venv/bin/activate
# source ~/miniforge3/bin/activate hpc_dmaml

# The launcher must belong to the MPI library that mpi4py uses: one that does not is refused at the start. One of:
# LAUNCHER="mpirun"               # the environment's own; the default
# LAUNCHER="srun --mpi=pmi2"      # MPICH (also the one that pip installs) and its relatives
# LAUNCHER="srun --mpi=pmix"      # Open MPI; `srun --mpi=list` shows what your cluster has

# Where the environment is an image (slurm/apptainer.def), what each rank is run in:
# CONTAINER="apptainer exec hpc_dmaml.sif"
