#!/bin/bash
# One torchrun on each node, one process on each GPU:
#   sbatch recipes/cluster/slurm.sh /shared/corpus --out /shared/runs/model --arch gpt2-medium --tokens 10000000000
# The folders must lie on a disk that all nodes see. The same command goes on after a stop; Slurm's own stop is saved first.
#SBATCH --job-name=fledge
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue

srun torchrun \
    --nnodes="$SLURM_JOB_NUM_NODES" \
    --nproc-per-node="$SLURM_GPUS_PER_NODE" \
    --rdzv-backend=c10d \
    --rdzv-endpoint="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1):29500" \
    --rdzv-id="$SLURM_JOB_ID" \
    -m fledge pretrain "$@"
