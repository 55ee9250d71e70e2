# Everything starts here: each target sets up what it needs in .venv first, once (scripts/setup).
# Written for GNU make 3.81, which macOS has.

.PHONY: help demo test lint types format check-readme bench build clean
.DEFAULT_GOAL := help

PYTHON := .venv/bin/python -I
CODE := broker client tests bench
PYTEST_ARGS ?=
# pytest compiles its tests for each worker, and keeps that for the next run unless told not to.
unexport PYTHONDONTWRITEBYTECODE

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

demo: ## the whole chain on embedded parts: no account, no network
	@scripts/setup dev-issuer
	@$(PYTHON) -m tokenbroker.dev.demo

test: ## every test that this machine can run; PYTEST_ARGS="-k name" chooses
	@scripts/setup test
	@scripts/setup-node
	@.venv/bin/pytest -q -n 3 --dist worksteal $(PYTEST_ARGS)

lint: ## ruff: rules and format
	@scripts/setup test,lint
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .

types: ## mypy, strict
	@scripts/setup test,lint
	@.venv/bin/mypy $(CODE)

format: ## let ruff rewrite the code
	@scripts/setup test,lint
	@.venv/bin/ruff check --fix .
	@.venv/bin/ruff format .

check-readme: ## whether README and docs say what the programs do
	@scripts/setup test
	@.venv/bin/pytest -q tests/units/test_docs.py

bench: ## measure everything beside its reference, 3 minutes; names what is missed
	@scripts/setup test
	@.venv/bin/python -m bench

build: ## wheels and source archives of both distributions, in dist/
	@scripts/setup build
	@rm -rf dist
	@$(PYTHON) -m hatchling build -d dist
	@cd client && ../$(PYTHON) -m hatchling build -d ../dist

clean: ## remove everything that make made
	@rm -rf .venv .cache .setup-lock .setup-log dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
