#!/usr/bin/env bash
# A training stage on several machines: start this on each of them, with the same values but for NODE_RANK.
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 bash runs/multinode.sh --depth 32 --fp8 --corpus climbmix --max-seq-len 2048
# STAGE=mid_train and the others likewise; base_train if it is not given. GPUS is the number on each machine (8).
#
# NEVER RUN ON GPUS SO FAR. On CPUs a test starts two of these on one machine: the losses are those of one machine with as many ranks.
# NANOCHAT_COURSE_DIR must name a folder that all machines share: rank 0 writes the checkpoints, every rank reads them. Text and
# tokenizer must be there already: python -m nanochat_course.speedrun --preset 8xh100 --until tok_train, on one of the machines.
# Before it begins, the doctor tries the group, the links and the shared folder (DOCTOR=off leaves it out).
# Start it inside tmux, or by Slurm (runs/slurm.sh). Started again with the same values it goes on from its last checkpoint.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
: "${NNODES:?number of machines}" "${NODE_RANK:?0 on the first machine}" "${MASTER_ADDR:?address of the first machine}"
port="${MASTER_PORT:-29500}"
. runs/setup.sh
if [ "${DOCTOR:-on}" != off ]; then
  "$VENV/bin/python" -m nanochat_course.doctor --preset 8xh100 --gpus "${GPUS:-8}" --only gpus,driver,compiler,gloo,nccl,shared \
    --nodes "$NNODES" --node-rank "$NODE_RANK" --master "$MASTER_ADDR:$((port + 1))"
fi
patience=()                           # time to save in, after a signal; torch 2.11 has no such option
if [[ "$("$VENV/bin/python" -m torch.distributed.run --help)" == *--shutdown-timeout* ]]; then patience=(--shutdown-timeout=120); fi
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1     # ranks that are started again would look for the dead ones
exec "$VENV/bin/python" -m torch.distributed.run --nnodes="$NNODES" --node_rank="$NODE_RANK" --nproc_per_node="${GPUS:-8}" \
  --max-restarts=3 "${patience[@]}" --rdzv_backend=c10d --rdzv_endpoint="$MASTER_ADDR:$port" --rdzv_id="${RUN_ID:-nanochat_course}" \
  -m "nanochat_course.${STAGE:-base_train}" "$@"
