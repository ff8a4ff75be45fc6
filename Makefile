# Everything happens in .venv, which make sets up by itself: `make run`, `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SEED ?= 1
SEEDS ?= 1 2 3 4 5 6 7 8 9 10
MINUTES ?= 3
DATA ?= data
ORDERS ?= 10
TABLES ?= zeroeval:medium8 mmlu_pro:medium6 paretobandit:all llmrouter:all routellm:all
TESTING := -n 3 --dist worksteal
unexport PYTHONDONTWRITEBYTECODE # tests start hundreds of processes, which read what was compiled once

.PHONY: run test lint format types floors tests coverage stream compare chaos chaos-seeds mutants clean help

help: ## say what there is
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/'

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $(STAMP)

run: $(STAMP) ## set up, and play the demo
	$(BIN)/bandit-router demo

test: lint types floors tests ## set up, and run every check and test

lint: $(STAMP) ## style
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: $(STAMP) ## put the style right
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: $(STAMP) ## mypy, strict
	$(BIN)/mypy
	$(BIN)/mypy docs/examples/host.py docs/examples/chat.py

floors: $(STAMP) ## who may import whom
	$(BIN)/lint-imports

tests: $(STAMP) ## tests and doctests
	$(BIN)/python -m pytest $(TESTING) --durations=15

coverage: $(STAMP) ## the same, with branch coverage (takes half as long again)
	$(BIN)/python -m pytest $(TESTING) --cov --cov-report=term:skip-covered

stream: $(STAMP) ## one stream of 5,000 decisions, embedded and over HTTP (some minutes)
	STREAM_DECISIONS=5000 $(BIN)/python -m pytest tests/test_stream.py --timeout=1800

compare: $(STAMP) ## our defaults beside published bandits on the tables below DATA=... (hours; peers from PyPI)
	$(BIN)/bandit-router compare --order-seeds $(ORDERS) \
		$(foreach t,$(TABLES),$(DATA)/$(word 1,$(subst :, ,$(t)))/$(word 1,$(subst :, ,$(t))).parquet) \
		$(foreach t,$(TABLES),--pool $(word 2,$(subst :, ,$(t)))) \
		--json comparison.json --markdown comparison.md --picture comparison.png

chaos: $(STAMP) ## inject faults, and prove that nothing is lost (SEED=1 MINUTES=3)
	$(BIN)/bandit-router chaos --seed $(SEED) --minutes $(MINUTES)

chaos-seeds: $(STAMP) ## the same for ten seeds; the last line says how many passed
	@passed=0; for seed in $(SEEDS); do \
		$(BIN)/bandit-router chaos --seed $$seed --minutes $(MINUTES) && passed=$$((passed + 1)); \
	done; echo "$$passed of $(words $(SEEDS)) seeds passed"; test $$passed -eq $(words $(SEEDS))

mutants: $(STAMP) ## faults in the program itself, which chaos must find (some minutes)
	MUTANTS=1 $(BIN)/python -m pytest tests/simulations/chaos/test_mutants.py -s

clean: ## remove what make set up
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage* dist
