# PYTHON picks the interpreter (3.10 to 3.13) that .venv is made of; COMFYUI_PATH a ComfyUI to use instead of 0.30.0.
# Without PYTHON, a .venv that is there is kept as it is.
PY := .venv/bin/python
PYTHON ?= $(or $(wildcard $(PY)),python3)

.DEFAULT_GOAL := help
.PHONY: help host demo test lint bench gpu-check train train-tiny clean

help:   ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

host:   ## create .venv, obtain ComfyUI, install everything (the other targets do this first)
	@command -v $(PYTHON) >/dev/null || { echo "error: there is no $(PYTHON) here: set PYTHON to a Python from 3.10 to 3.13." >&2; exit 1; }
	@$(PYTHON) .ci/install.py

demo: host  ## pose transfer in a headless ComfyUI; SOURCE=picture POSE=keypoints.json take yours
	@.ci/system-packages.sh video
	@$(PY) workflows/demo.py

test: host  ## the whole test suite, on as many cores as there are (four at most); ARGS= goes to pytest
	@.ci/system-packages.sh video chromium
	@$(PY) -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile $(ARGS)

lint: host  ## ruff's rules and its format, and mypy's types
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy reposedm_core training
	@mkdir -p build/types && ln -sfn ../.. build/types/pack
	@MYPYPATH=build/types $(PY) -m mypy -p pack.nodes

bench: host  ## the costs as ratios, against their budgets; ARGS= goes to benchmarks/bench.py (--full, --readme)
	@$(PY) benchmarks/bench.py $(ARGS)

gpu-check:  ## does a GPU do what the CPU does, and how quickly; installs nothing; ARGS= goes to benchmarks/gpu_check.py
	@$(PYTHON) benchmarks/gpu_check.py $(ARGS)

train: host  ## train the shipped weights anew; ARGS= goes to training/train.py
	@$(PY) training/train.py $(ARGS)

train-tiny: host  ## train every stage for a few steps on small people: shows that it works; ARGS= to training/train_tiny.py
	@$(PY) training/train_tiny.py $(ARGS)

clean:  ## remove .venv, the downloaded ComfyUI and the caches
	rm -rf .venv .host .pytest_cache .ruff_cache .mypy_cache .hypothesis build *.egg-info
