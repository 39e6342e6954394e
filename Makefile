# make speedrun   text -> tokenizer -> pretraining -> midtraining -> SFT -> RL -> evaluation -> report (PRESET= to choose the size)
# make test       notebooks clean and in step, all of them executed, pytest, lint
# make chat       talk to the model that the speedrun made
# make web        the same on a page in the browser, and an OpenAI-compatible interface (PORT= to choose the port)
# make doctor     whether this machine can do it (PRESET= as above)
# make test-gpu   on a machine with a GPU: everything that needs one, ten minutes (NANOCHAT= a checkout to compare with)
# make lab        JupyterLab on the notebooks
# make site       the notebooks as a website, served on the loopback address
# make help       this list
PYTHON ?= python3
VENV ?= .venv
PRESET ?= auto
PORT ?= 8000
BIN := $(abspath $(VENV))/bin
READY := $(VENV)/.ready
NOTEBOOK := $(BIN)/python tools/notebook.py

.PHONY: help setup speedrun doctor chat web lab site docs readme export clean-nbs test test-sync test-nbs test-py test-install test-gpu lint bench clean
help:
	@sed -n 's/^# //p' Makefile

setup: $(READY)
$(READY): settings.ini setup.py constraints.txt
	@echo "setting up $(VENV) (a few minutes the first time) ..."
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v >= (3, 10) else "Python 3.10 or newer is needed, this is %d.%d: make PYTHON=python3.11 ..." % v)'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@for c in nbdev_docs nbdev_preview nbdev_readme; do cp tools/site/pre_render.py $(BIN)/$$c; chmod +x $(BIN)/$$c; done
	@touch $(READY)

speedrun: setup
	@$(BIN)/python -m nanochat_course.speedrun --preset $(PRESET)

doctor: setup
	@$(BIN)/python -m nanochat_course.doctor --preset $(PRESET)

chat: setup
	@$(BIN)/python -m nanochat_course.chat_cli

web: setup
	@$(BIN)/python -m nanochat_course.chat_web --port $(PORT)

lab: setup
	$(BIN)/jupyter lab --notebook-dir nbs nbs/index.ipynb

site: setup
	$(BIN)/python tools/site/build.py --serve --port $(PORT)

docs: setup
	$(BIN)/python tools/site/build.py --epub

readme: setup
	$(BIN)/python tools/site/build.py --readme

# after editing a notebook: clean it and write the package
export: setup
	$(BIN)/nbdev_clean
	$(NOTEBOOK) export

clean-nbs: setup
	$(BIN)/nbdev_clean

# Each kind of test has a target of its own; `make test` runs them all.
test: test-sync lint test-py test-nbs
	@echo "all tests passed"

test-sync: setup
	$(NOTEBOOK) check

lint: setup
	$(BIN)/ruff check .

# Two files at a time, each in a process of its own with one thread.
test-py: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# Not part of `make test`: pip installs the wheel and its requirements into a fresh environment, without links.
test-install: setup
	NANOCHAT_COURSE_TEST_INSTALL=1 $(BIN)/python -m pytest tests/test_install.py

# Not part of `make test` either: without a GPU it says so in one line.
test-gpu: setup
	@NANOCHAT=$(NANOCHAT) $(BIN)/python tests/gpu/run.py

# Two at a time, each with one thread and a folder of its own; after each notebook its solved exercises.
test-nbs: setup
	@$(NOTEBOOK) test

bench: setup
	@for b in benchmarks/bench_*.py; do echo "== $$b"; $(BIN)/python $$b || exit 1; done

clean:
	rm -rf _proc _docs build dist *.egg-info .pytest_cache .ruff_cache
