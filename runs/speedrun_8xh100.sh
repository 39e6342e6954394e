#!/usr/bin/env bash
# The real run on one machine with eight H100s: text, tokenizer, pretraining at depth 24, midtraining, SFT, RL, report.
# Stop it at any time; the same command goes on from there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
make setup
exec .venv/bin/python -m nanochat_course.speedrun --preset 8xh100 "$@"
