# Everything a newcomer needs: `make quickstart` (from nothing to images) and `make test` (the whole suite).
# Each makes its own environment in .venv the first time; a second call does no set-up again.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: quickstart test test-all benchmark faults lint clean help

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

test: lint  ## lint and every fast test
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m 'not slow'

test-all: lint  ## also the slow tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

benchmark: $(VENV)/.dev  ## measure what tests cannot: the latent cache, its building, saves; on a quiet machine
	for program in benchmarks/*.py; do echo "$$program"; $(BIN)/python $$program || exit 1; done

faults: $(VENV)/.dev  ## kill a run 100 times, at random, and compare what comes out with one left alone
	$(BIN)/python tests/faults/kill.py --kills 100 --jobs 2

clean:  ## remove the environment and caches, not runs
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
