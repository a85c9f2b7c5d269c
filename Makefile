# Each target sets .venv up by itself; `make` alone lists them.
PYTHON ?= python3
JOBS ?= 2
OPTIONS ?=
BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help setup train test test-slow mutants lint docs bench wheel clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup: $(READY)  ## the environment that is tested, in .venv

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

train: $(READY)  ## train an agent in the household world; OPTIONS="run.updates=5" changes options
	$(BIN)/agentgym train --config examples/household.yaml $(OPTIONS)

test: $(READY)  ## all tests but the slow ones; OPTIONS="tests/core -k fork" chooses
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "not slow" $(OPTIONS)

test-slow: $(READY)  ## the slow tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m slow $(OPTIONS)

mutants: $(READY)  ## put 150 small faults into a copy, one at a time: some test has to fail; OPTIONS="gigpo" chooses
	OMP_NUM_THREADS=1 $(BIN)/python tests/mutants.py $(OPTIONS)

lint: $(READY)  ## style, types, who may import whom, sizes and words
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python .ci/house.py

bench: $(READY)  ## every benchmark, one after the other; results in benchmarks/out
	mkdir -p benchmarks/out
	for file in credit generation overhead trl_step waiting; do \
	    OMP_NUM_THREADS=1 $(BIN)/python benchmarks/$$file.py --json benchmarks/out/$$file.json || exit 1; done

docs: $(READY)  ## build the documentation into site/, links and anchors checked, without the network
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

wheel: $(READY)  ## build the wheel and try it in an environment of its own
	.ci/wheel

clean:  ## remove what was built, never runs
	rm -rf .venv dist build site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
