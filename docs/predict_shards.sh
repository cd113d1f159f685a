#!/bin/bash
# One machine, no scheduler: a process for each core, more shards than processes, so that none waits
# long for the last one. The same command again does what is missing; exit code 123 says that some
# shard did not do all its photos.
#     docs/predict_shards.sh SHARDS PROCESSES --checkpoint best.ckpt --compact all.jsonl photos/
set -euo pipefail

shards=$1 processes=$2
shift 2
export OMP_NUM_THREADS=1
seq "$shards" | xargs -P "$processes" -I{} \
    "${PYTHON:-.venv/bin/python}" -m clothseg_utils predict --shard "{}/$shards" "$@"
