#!/usr/bin/env bash
# The other speedrun: GPT-2's smallest size to a validation loss of 3.28 on FineWeb, by the recipe of November 2024 that took 10.8 minutes.
#
#   bash runs/nanogpt_speedrun.sh                      # eight GPUs, or as many as there are: 1, 2, 4 or 8, with the same curve
#   bash runs/nanogpt_speedrun.sh --rung unet          # another rung of the ladder (chapter 71); all flags of nanochat_course.nanogpt
#
# NEVER RUN ON GPUS SO FAR: every part is tested on CPUs, with 1, 2 and 4 processes.
#   time    published for this recipe, with its authors' code: 10.8 minutes on eight H100s; ours is not measured
#   disk    20 GB free: 5.2 GB of tokens, the rest for checkpoints and the environment
#   needs   1, 2, 4 or 8 GPUs of 80 GB (smaller ones: --device-batch-size 32), python3 with venv and headers, gcc, a way to the hub
#
# The tokens come first and need no GPU:  SHARDS=25 DOWNLOAD_ONLY=1 bash runs/nanogpt_speedrun.sh
# Stop it at any time (Ctrl-C once); the same command goes on from there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
. runs/setup.sh
PYTHON="$VENV/bin/python"
"$PYTHON" -m nanochat_course.fineweb --shards "${SHARDS:-25}"
if [ -n "${DOWNLOAD_ONLY:-}" ]; then exit 0; fi
GPUS="${GPUS:-$("$PYTHON" -c 'import torch; print(torch.cuda.device_count())')}"
case "$GPUS" in
  1|2|4|8) ;;
  *) echo "error: $GPUS GPUs: use 1, 2, 4 or 8 (GPUS=4 bash runs/nanogpt_speedrun.sh takes four of more)" >&2; exit 2 ;;
esac
exec "$PYTHON" -m torch.distributed.run --standalone --nproc_per_node="$GPUS" -m nanochat_course.nanogpt --rung untied "$@"
