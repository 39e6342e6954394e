#!/usr/bin/env bash
# The real run on one machine with eight H100s: text, tokenizer, pretraining at depth 24, midtraining, SFT, RL, report.
#
#   tmux new -s speedrun                # the run outlives your connection; come back with: tmux attach -t speedrun
#   bash runs/speedrun_8xh100.sh
#
# NEVER RUN ON GPUS SO FAR: every part is tested on CPUs; hours and dollars are arithmetic (chapter 52 does it step by step).
#   time    2 to 3.5 hours, nearly all of it pretraining
#   price   50 to 85 dollars at 3 dollars per GPU and hour
#   disk    150 GB free: 12 GB of text, the rest for checkpoints, of which the last two of each of four stages stay
#   needs   8 GPUs of 80 GB, NVIDIA driver 525 or newer (580 for CUDA 13), python3 with venv and headers, gcc, a way to the hub
#
# Text and tokenizer need no GPU. Make them before you pay for eight:
#   bash runs/speedrun_8xh100.sh --until tok_train
# Stop it at any time (Ctrl-C once, then wait for "interrupted"); the same command goes on from there. After a crash or
# a power cut, too: what is lost then is the work since the last checkpoint. Finished stages are not done again.
#
# Every flag of every stage can be set; give the same ones when you go on:
#   bash runs/speedrun_8xh100.sh --set base_train.tracker=wandb --set base_train.save_every=250
# A rehearsal on one GPU, with some steps of everything:
#   NANOCHAT_COURSE_DIR=$HOME/rehearsal bash runs/speedrun_8xh100.sh --gpus 1 --set corpus.num_shards=4 \
#     --set base_train.num_iterations=20
# Before anything is downloaded, nanochat-doctor tries the machine and one true training step, some minutes that warm up the
# compiler's cache. It names all that is missing; what has failed it would be wrong to pay for. DOCTOR=off leaves it out.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
. runs/setup.sh
if [ "${DOCTOR:-on}" != off ]; then "$VENV/bin/python" -m nanochat_course.doctor --preset 8xh100 "$@"; fi
exec "$VENV/bin/python" -m nanochat_course.speedrun --preset 8xh100 "$@"
