#!/bin/bash
#SBATCH --job-name=clothseg-predict
#SBATCH --array=1-64
#SBATCH --cpus-per-task=1
#SBATCH --mem=4G
#SBATCH --time=04:00:00
#SBATCH --requeue
# Start it with sbatch at the top of the checkout; on a GPU add --gpus-per-task=1 and more cores for
# pictures. Each task predicts one shard. A task that was killed and is queued again goes on where it
# stopped; to run those again that failed, submit the same array. When all are done:
#     .venv/bin/python -m clothseg_utils join predictions/all.jsonl --coco predictions/all.json
set -euo pipefail

export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK

.venv/bin/python -m clothseg_utils predict --checkpoint outputs/demo/checkpoints/best.ckpt \
    --list photos.txt --compact predictions/all.jsonl \
    --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"
