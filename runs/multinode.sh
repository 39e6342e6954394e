#!/usr/bin/env bash
# Pretraining on several machines: start this on each of them, with the same values but for NODE_RANK.
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 bash runs/multinode.sh --depth 32 --fp8
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
: "${NNODES:?number of machines}" "${NODE_RANK:?0 on the first machine}" "${MASTER_ADDR:?address of the first machine}"
exec .venv/bin/torchrun --nnodes="$NNODES" --node_rank="$NODE_RANK" --nproc_per_node="${GPUS:-8}" \
  --rdzv_backend=c10d --rdzv_endpoint="$MASTER_ADDR:${MASTER_PORT:-29500}" --rdzv_id="${RUN_ID:-nanochat_course}" \
  -m nanochat_course.base_train --corpus climbmix --max-seq-len 2048 "$@"
