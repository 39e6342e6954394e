#!/usr/bin/env bash
#SBATCH --job-name=nanochat_course
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --signal=B:TERM@180
# The same under Slurm: one launcher on each machine, 8 ranks each. Example, never run on a cluster so far.
#   NANOCHAT_COURSE_DIR=/shared/run sbatch runs/slurm.sh --depth 32 --fp8 --corpus climbmix --max-seq-len 2048
# Three minutes before the time is over, the launchers are told to save and end; the same command goes on from there.
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?start this with sbatch, from the repository}"
: "${NANOCHAT_COURSE_DIR:?a folder that all machines share}"
. runs/setup.sh                       # once, for all: the repository lies on the shared file system
MASTER_ADDR="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
export VENV MASTER_ADDR NNODES="$SLURM_JOB_NUM_NODES" GPUS="${SLURM_GPUS_ON_NODE:-8}" RUN_ID="$SLURM_JOB_ID"
trap 'kill -TERM "$ranks"' TERM
srun bash -c 'NODE_RANK=$SLURM_NODEID exec bash runs/multinode.sh "$@"' launcher "$@" &
ranks=$!
wait "$ranks" || { status=$?; wait "$ranks" 2>/dev/null || true; exit "$status"; }
