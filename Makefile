# Everything that is done often. `make` alone lists it.
SHELL := /bin/sh
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := deploy services shared tests

BROKER ?= embedded
KAFKA_SECURITY ?= none
TIME_SCALE ?= 1
DATA ?= .data
PORT_BASE ?= 8001
KAFKA_PORT ?= 19092
POSTGRES_PORT ?= 15432
PYTEST_ARGS ?=
AUDIT_ARGS ?=
DOSE ?= ci
SEED ?=
PARTS ?=
SIZE ?=
ROUNDS ?=
export BROKER KAFKA_SECURITY TIME_SCALE DATA PORT_BASE KAFKA_PORT POSTGRES_PORT DOSE SEED PARTS SIZE ROUNDS

.PHONY: help run demo audit test lint bench faults vulnerabilities sbom lock asyncapi clean

help: ## list the commands
	@awk 'BEGIN {FS = ":.*## "} /^[a-z]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  variables: BROKER=embedded|kafka  KAFKA_SECURITY=none|scram  TIME_SCALE=1  DATA=.data  PORT_BASE=8001  KAFKA_PORT=19092  POSTGRES_PORT=15432"

run: $(VENV)/run.stamp ## start PostgreSQL, a broker and the four services here; Ctrl-C stops them
	@exec $(BIN)/python -m deploy.local.run

demo: $(VENV)/run.stamp ## play a day of complaints through a running stack
	@exec $(BIN)/python -m deploy.local.demo

audit: $(VENV)/run.stamp ## check a running stack against its promises; AUDIT_ARGS="--quiet-seconds 30"
	@exec $(BIN)/python -m deploy.audit --run-file $(DATA)/run.json $(AUDIT_ARGS)

test: $(VENV)/dev.stamp ## style, types, import rules and all tests (PYTEST_ARGS="-k name" chooses)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(PACKAGES)
	$(BIN)/lint-imports
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/dev.stamp ## correct style and layout, then check types and import rules
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/mypy $(PACKAGES)
	$(BIN)/lint-imports

bench: $(VENV)/dev.stamp ## measure the platform beside floors of the same run (PARTS=accept,growth SIZE=1000000 ROUNDS=3)
	@exec $(BIN)/python -m tests.bench.run

faults: $(VENV)/dev.stamp ## kill and break everything at random, then check that nothing was lost (DOSE=ci|nightly SEED=7)
	@exec $(BIN)/python -m tests.faults.run

asyncapi: $(VENV)/run.stamp ## write docs/asyncapi.yaml from the event models
	$(BIN)/python -m shared.contracts.asyncapi > docs/asyncapi.yaml.new
	mv docs/asyncapi.yaml.new docs/asyncapi.yaml

vulnerabilities: $(VENV)/dev.stamp ## ask whether pinned packages are known to be vulnerable
	@exec $(BIN)/python -m deploy.supply.vulnerabilities

sbom: $(VENV)/dev.stamp ## write the bills of materials (CycloneDX) of the image and of one machine into sbom/
	@exec $(BIN)/python -m deploy.supply.sbom sbom

lock: ## pin all packages anew in requirements/*.txt
	rm -rf .cache/lock
	$(PYTHON) -m venv .cache/lock
	.cache/lock/bin/python -m pip install --quiet uv
	.cache/lock/bin/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-header \
		--no-emit-index-url --no-emit-find-links --extra local -o requirements/run.txt
	.cache/lock/bin/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-header \
		--no-emit-index-url --no-emit-find-links --extra local --extra dev -c requirements/run.txt -o requirements/dev.txt
	.cache/lock/bin/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-header \
		--no-emit-index-url --no-emit-find-links -c requirements/run.txt -o requirements/service.txt
	rm -rf .cache/lock

clean: ## remove what tools left behind; the environment and the data stay
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find $(PACKAGES) -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed, and there is no python3 here" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; $(PYTHON) is older. Set PYTHON=…" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
		|| { rm -rf $(VENV); echo "venv failed: on Debian and Ubuntu install the package python3-venv" >&2; exit 1; }

$(VENV)/run.stamp: requirements/run.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/run.txt
	@touch $@

$(VENV)/dev.stamp: requirements/dev.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/dev.txt
	@touch $@
