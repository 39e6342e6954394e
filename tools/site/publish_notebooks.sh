#!/usr/bin/env bash
# The notebooks that the links to Colab open, as the only commit of the branch `notebooks`: publish_notebooks.sh REMOTE COMMIT
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../_docs/notebooks"
git init -q -b notebooks
trap 'rm -rf .git' EXIT
git add .
git -c user.name="nanochat_course site" -c user.email="site@nanochat-course.example" commit -q -m "Notebooks of $2"
git push -q --force "$1" notebooks
