# Needs make and Python 3.11 with venv (Debian 12: apt-get install make python3 python3-venv). ARGS is passed on:
# make demo ARGS=--once, make test ARGS="tests/wire -k scram".
.DEFAULT_GOAL := help
.PHONY: help install demo test check format bench clean
SHELL := /bin/sh
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed
ARGS ?=

help: ## Show this help.
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 18

install: $(STAMP) ## Make .venv with everything that development needs.

# --group needs pip 25.1. The stamp is written last, so that an interrupted install is done again.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or later is needed; name it by PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "venv is missing: apt-get install python3-venv" >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear .venv
	@echo "installing into .venv (once; about a minute)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --group dev --editable .
	@touch $(STAMP)

demo: $(STAMP) ## Run the quick start with a PostgreSQL and 1,000 clients (ARGS=--once ends by itself).
	@$(BIN)/pgweir local --demo -f examples/quickstart $(ARGS)

test: $(STAMP) ## Run all tests.
	$(BIN)/pytest -n auto $(ARGS)

check: $(STAMP) ## Check format, lint, types, import contracts and generated schemas.
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pgweir_contract.schema --check

format: $(STAMP) ## Format the code and fix what can be fixed.
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

bench: $(STAMP) ## Compare CPU, throughput and latency with PgBouncer.
	$(BIN)/python -m bench $(ARGS)

clean: ## Remove .venv, caches and build results.
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
