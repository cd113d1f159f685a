#!/bin/bash
#SBATCH --job-name=clothseg
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=12:00:00
# Start it with sbatch at the top of the checkout. One task a node: torchrun starts a process for
# each GPU. A job that is requeued goes on from last.ckpt. Where one node's task ends badly, or
# is killed, srun ends the others at once.
set -euo pipefail

first_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

run_name=fashionpedia
resume=
if [ -e "outputs/$run_name/checkpoints/last.ckpt" ]; then
    resume=--resume
fi

srun --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    .venv/bin/python -m torch.distributed.run \
    --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "$SLURM_GPUS_ON_NODE" \
    --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$first_node:29500" \
    -m clothseg_utils train --profile fashionpedia --data-root data/fashionpedia \
    --run-name "$run_name" $resume
