# Everything a newcomer needs: `make quickstart` (from nothing to images) and `make test` (the whole suite).
# Each makes its own environment in .venv the first time; a second call does no set-up again.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: quickstart test fast-tests test-all test-oldest benchmark gpu faults lint clean help

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.quickstart: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -e '.[quickstart]'
	touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@ $(VENV)/.quickstart

quickstart: $(VENV)/.quickstart  ## train the quickstart recipe on a CPU and show where its images are
	$(BIN)/gaekit run quickstart

lint: $(VENV)/.dev  ## style, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: $(VENV)/.dev  ## lint and every fast test, side by side
	$(MAKE) -j2 lint fast-tests

fast-tests: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -m 'not slow'

test-all: lint  ## also the slow tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

test-oldest:  ## the fast tests with the oldest torch that pyproject.toml allows, in an environment of their own
	test -x .venv-oldest/bin/python || $(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --upgrade pip
	.venv-oldest/bin/python -m pip install --quiet -e '.[dev]' -c tests/oldest.txt
	OMP_NUM_THREADS=1 .venv-oldest/bin/pytest -n 2 -m 'not slow'

BENCHMARKS = training_step sampling evaluation latent_cache latent_extraction checkpoint_wait
benchmark: $(VENV)/.dev  ## measure what tests cannot: a step, sampling, evaluation, the latent cache, saves; on a quiet machine
	for name in $(BENCHMARKS); do echo "benchmarks/$$name.py"; $(BIN)/python benchmarks/$$name.py || exit 1; done

gpu:  ## the tests and benchmarks for CUDA, under nine minutes; needs torch and pytest, and takes the wheels of .whl/
	$(PYTHON) tests/gpu/run.py

faults: $(VENV)/.dev  ## kill a run 100 times, at random, and compare what comes out with one left alone
	$(BIN)/python tests/faults/kill.py --kills 100 --jobs 2

clean:  ## remove the environment and caches, not runs
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
