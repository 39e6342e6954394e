#!/usr/bin/env bash
# Pretraining on several machines: start this on each of them, with the same values but for NODE_RANK.
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 bash runs/multinode.sh --depth 32 --fp8
# Never run on GPUs so far. Corpus and tokenizer must be there already (python -m nanochat_course.speedrun --preset 8xh100 --until tok_train),
# and NANOCHAT_COURSE_DIR must name a folder that all machines share: rank 0 writes the checkpoints, every rank reads them.
# Start it inside tmux. Started again with the same values it goes on from its last checkpoint.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
: "${NNODES:?number of machines}" "${NODE_RANK:?0 on the first machine}" "${MASTER_ADDR:?address of the first machine}"
exec .venv/bin/torchrun --nnodes="$NNODES" --node_rank="$NODE_RANK" --nproc_per_node="${GPUS:-8}" --max-restarts=3 --shutdown-timeout=120 \
  --rdzv_backend=c10d --rdzv_endpoint="$MASTER_ADDR:${MASTER_PORT:-29500}" --rdzv_id="${RUN_ID:-nanochat_course}" \
  -m nanochat_course.base_train --corpus climbmix --max-seq-len 2048 "$@"
