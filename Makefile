# Each target sets up what it needs (.venv with the versions of constraints.txt) and is quick once that is done.
#   make PYTHON=python3.12 ...                                          another interpreter
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make ...   torch without CUDA, a far smaller download

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test lint compiler

VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
SUPPORTED := (3, 11) <= sys.version_info[:2] <= (3, 14)
PYTHON ?= $(shell for python in python3 python3.12 python3.11 python3.13 python3.14; do \
	$$python -c 'import sys; sys.exit(not $(SUPPORTED))' 2>/dev/null && echo $$python && break; done)

export PIP_DISABLE_PIP_VERSION_CHECK := 1

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## */  make \1\t/' | expand -t 16

demo: setup  ## problems -> PRM -> two PPO arms -> best-of-N curves, on CPU; the report is runs/demo/report
	$(BIN)/rlstep lab --out runs/demo

# One thread a worker: torch would otherwise start as many threads as cores in each of them.
test: export OMP_NUM_THREADS := 1
test: export TOKENIZERS_PARALLELISM := false
test: setup compiler  ## the whole test run; ARGS="-k ppo" goes to pytest
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

lint: setup  ## ruff, its formatting, and the rule that imports run downward only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

setup: $(VENV)/.installed  ## the environment alone

$(VENV)/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" && "$(PYTHON)" -c 'import sys; sys.exit(not $(SUPPORTED))' || { \
		echo "rlstep needs Python 3.11 to 3.14; name one that you have: make PYTHON=/path/to/python3 $(MAKECMDGOALS)" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt-get install -y python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear $(VENV)
	@echo "Setting up $(VENV) with $$($(BIN)/python --version), once. 1 of 2: torch ..."
	@$(BIN)/python -m pip install --quiet torch --constraint constraints.txt
	@echo "2 of 2: rlstep and its other dependencies, a minute or more without output ..."
	@$(BIN)/python -m pip install --quiet --editable '.[dev]' --constraint constraints.txt
	@touch $@

# DeepSpeed compiles a small op in the distributed tests; without a compiler they would fail after a long wait.
compiler: setup
	@test "$$(uname)" != Linux || command -v "$${CXX:-c++}" >/dev/null || { \
		echo "no C++ compiler, which the DeepSpeed tests need; on Debian and Ubuntu: apt-get install -y g++" >&2; exit 1; }
	@test "$$(uname)" != Linux || test -f "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" || { \
		echo "no Python.h, which the DeepSpeed tests need; on Debian and Ubuntu: apt-get install -y python3-dev" >&2; exit 1; }
