#!/usr/bin/env bash
# The environment of a machine that trains: the package and what it imports, without Jupyter, pandoc and the tests' tools.
# The launchers in this folder source it; started alone, it only makes the environment.
#   VENV    where it goes (.venv-run)         PYTHON  the interpreter to make it with (python3)
#   CUDA    12.8 for drivers older than 580; chosen by the driver if it is not given
# What is missing on a blank machine is named, all at once.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV="${VENV:-.venv-run}"
PYTHON="${PYTHON:-python3}"

missing=()
if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
  echo "error: $PYTHON is not there or older than Python 3.10: install one (apt-get install python3), or name it: PYTHON=python3.11 bash $0" >&2
  exit 1
fi
"$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
"$PYTHON" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_paths()["include"] + "/Python.h"))' || missing+=(python3-dev)
command -v "${CC:-gcc}" >/dev/null && command -v "${CXX:-g++}" >/dev/null || missing+=(build-essential)
if ((${#missing[@]})); then
  echo "error: missing on this machine: ${missing[*]} (on Debian and Ubuntu: sudo apt-get install -y ${missing[*]})" >&2
  exit 1
fi

if [ -z "${CUDA:-}" ]; then
  driver="$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1 | cut -d . -f 1 || true)"
  if [[ "$driver" =~ ^[0-9]+$ ]] && ((driver < 580)); then CUDA=12.8; else CUDA=13; fi
fi
case "$CUDA" in
  13*) wanted=(-c constraints.txt) ;;
  12.8) wanted=(-c constraints-cu128.txt --extra-index-url https://download.pytorch.org/whl/cu128) ;;
  *) echo "error: CUDA=$CUDA is not offered: use 12.8 or 13" >&2; exit 1 ;;
esac

mark="$(cat settings.ini setup.py constraints*.txt | cksum) CUDA $CUDA"
if [ "$(cat "$VENV/.made" 2>/dev/null || true)" != "$mark" ]; then
  echo "making $VENV with torch for CUDA $CUDA (some minutes, 8 GB) ..."
  "$PYTHON" -m venv "$VENV"
  "$VENV/bin/pip" install -q --disable-pip-version-check "${wanted[@]}" -e .
  echo "$mark" >"$VENV/.made"
fi
