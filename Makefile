# What a contributor types. CI runs the same targets (.ci/run); "make check" and "make fix" mirror each other.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
CONFIG ?= examples/langgraph.json
SEED ?= 1
MINUTES ?= 2
REFERENCE ?= .venv/reference
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SOURCES := services schemas tests benchmarks examples deploy
SHORT := awk '/^(Collecting|Downloading|Installing|Successfully)/ { print substr($$0, 1, 120); fflush() }'
LOCK := $(BIN)/uv pip compile pyproject.toml --generate-hashes --no-emit-index-url --no-emit-find-links \
	--no-annotate --no-header --python-version 3.11 --quiet

.PHONY: help setup demo up down test chaos fuzz check fix conformance compatibility compatibility-reference bench bench-secured bench-smoke lock audit sbom

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-24s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## Create .venv and install everything pinned (again only when the lock file changes)

$(STAMP): requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version 2>&1). Set PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
		{ echo "error: $(PYTHON) has no venv module. On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@echo "setup: creating $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setup: installing the pinned dependencies (about 250 MB, one to three minutes the first time)"
	@$(BIN)/python -m pip install --disable-pip-version-check --require-hashes -r requirements-dev.lock | $(SHORT)
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	@touch $@
	@echo "setup: done"

demo: setup ## Start everything, run the demo on real input, stop everything
	$(BIN)/perdure demo

up: setup ## Start the servers and all services with the example agent (CONFIG=...), and leave them running
	$(BIN)/perdure up --config $(CONFIG)

down: setup ## Stop what "make up" started
	$(BIN)/perdure down

test: setup ## Run all tests against real servers
	$(BIN)/python -m perdure.local build-mongodb --optional
	$(BIN)/python -m perdure.local fetch
	$(BIN)/python -m pytest -n 2 tests/unit tests/contract
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not alone" tests --ignore=tests/unit --ignore=tests/contract
	$(BIN)/python -m pytest -m alone tests --ignore=tests/unit --ignore=tests/contract

check: setup ## Lint, format, types, import contracts, generated files
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m perdure.schemas.generate --check

fix: setup ## Repair what "make check" can repair
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/python -m perdure.schemas.generate
	$(BIN)/perdure settings --markdown > docs/configuration.md

chaos: setup ## Kill everything for MINUTES and check every promise (SEED=1 MINUTES=2 SECURE=1: with TLS, users, encryption)
	$(BIN)/python -m tests.chaos.run --seed $(SEED) --minutes $(MINUTES) $(if $(SECURE),--secure)

fuzz: setup ## Fuzz what reads strangers' input, MINUTES for each function; inputs that fail are kept in tests/fuzz/corpus
	FUZZ_MINUTES=$(MINUTES) $(BIN)/python -m pytest -q tests/fuzz

conformance: setup ## Run LangGraph's conformance suite and its own tests against the saver
	$(BIN)/python -m pytest -s tests/integration/test_conformance.py tests/integration/test_langgraph_suite.py

compatibility: setup ## Run the probes of docs/compatibility.md against the whole system, and write the page
	COMPATIBILITY_WRITE=1 $(BIN)/python -m pytest tests/e2e/test_compatibility.py

compatibility-reference: setup ## Run the same probes against the Agent Server's "langgraph dev", installed into REFERENCE=.venv/reference
	@test -x $(REFERENCE)/bin/langgraph || { $(PYTHON) -m venv $(REFERENCE) && $(REFERENCE)/bin/python -m pip install \
		--disable-pip-version-check "langgraph-api==0.16.7" "langgraph-cli[inmem]==0.4.40" | $(SHORT); }
	$(BIN)/python -m tests.compatibility.reference $(REFERENCE)

bench: setup ## Measure Perdure and its peers in turn (QUICK=1 PEERS=.. WORKLOADS=.. ROUNDS=3 SOAK_MINUTES=30)
	$(BIN)/python benchmarks/run.py $(if $(QUICK),--quick) $(if $(PEERS),--peers $(PEERS)) $(if $(ROUNDS),--rounds $(ROUNDS)) \
		$(if $(WORKLOADS),--workloads $(WORKLOADS)) $(if $(SOAK_MINUTES),--soak-minutes $(SOAK_MINUTES)) $(BENCH_OPTIONS)

bench-secured: setup ## Measure what TLS, passwords, grants and encryption cost, beside a system without them
	$(BIN)/python benchmarks/secured.py

bench-smoke: setup ## Run the smoke benchmark; prints one JSON line for each run
	$(BIN)/python benchmarks/smoke.py

lock: setup ## Resolve the dependencies again and write the lock files
	$(LOCK) --extra dev -o requirements-dev.lock
	$(LOCK) --constraint requirements-dev.lock -o requirements.lock

# The detectors that are off guess by entropy and by names; ruff's S105 to S107 look for passwords in code.
audit: setup ## Look for tokens and keys in the files of this repository, and for known vulnerabilities of the pinned packages
	git ls-files -z | xargs -0 $(BIN)/detect-secrets-hook --no-verify --disable-plugin KeywordDetector --disable-plugin BasicAuthDetector \
		--disable-plugin Base64HighEntropyString --disable-plugin HexHighEntropyString --disable-plugin IPPublicDetector
	$(BIN)/python deploy/release/vulnerabilities.py

sbom: setup ## Write dist/perdure.cdx.json: every package that an image holds, with hashes (CycloneDX)
	@mkdir -p dist
	$(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --mc-type application --output-reproducible --of JSON \
		--output-file dist/perdure.cdx.json requirements.lock
