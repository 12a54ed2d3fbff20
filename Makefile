# Every target sets up what it needs. `make` alone lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
# Where it is set, every process compiles all that it imports, the tests' assertions too.
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
PYTHON := $(VENV)/bin/python
# Two test processes suit a machine of two cores; give more where there are more.
WORKERS ?= 2
PYTEST_ARGS ?=
# Google's Pub/Sub emulator comes from Google alone: where it is not installed its tests are left out, and said so.
PUBSUB_EMULATOR_HOME ?= /usr/lib/google-cloud-sdk/platform/pubsub-emulator
HAS_PUBSUB := $(wildcard $(PUBSUB_EMULATOR_HOME)/lib/cloud-pubsub-emulator-*-all.jar)
BENCHMARKS ?= $(sort $(patsubst benchmarks/%.py,%,$(shell grep -l __main__ benchmarks/*.py)))

.PHONY: help install demo up test test-unit check format faults bench lock docs clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(VENV)/.installed ## Set up .venv with the locked dependencies (Python 3.11 or newer)

demo: $(VENV)/.installed ## Run the whole platform for a minute on real data, and end it
	@$(VENV)/bin/pynomaly demo

up: $(VENV)/.installed ## Start the embedded platform and keep it running until Ctrl-C
	@$(VENV)/bin/pynomaly up --root .

test: $(VENV)/.installed-dev ## Run the tests on real servers (installs those that are missing)
	@scripts/install_test_servers
	@$(if $(HAS_PUBSUB),,echo "Left out: the tests of Pub/Sub. Google's emulator is not in $(PUBSUB_EMULATOR_HOME)")
	HYPOTHESIS_PROFILE=thorough $(PYTHON) -m pytest -n $(WORKERS) --dist loadfile \
		-m "not docker and not slow$(if $(HAS_PUBSUB),, and not pubsub)" $(PYTEST_ARGS)

# Without the plugins for servers, whose imports would take a tenth of the time.
test-unit: $(VENV)/.installed-dev ## Run the tests that need no server and little data
	$(PYTHON) -m pytest -n $(WORKERS) --dist loadfile -m "not slow and not large" -p no:celery -p no:docker_tools \
		tests/unit tests/structure $(PYTEST_ARGS)

check: $(VENV)/.installed-dev ## Lint, format check, types, layers
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m mypy
	$(VENV)/bin/lint-imports

format: $(VENV)/.installed-dev ## Format the code and mend what the linter can mend
	$(PYTHON) -m ruff check --fix
	$(PYTHON) -m ruff format

faults: $(VENV)/.installed-dev ## Run the full fault runs (long): kills, restarts, outages under load
	@scripts/install_test_servers
	$(PYTHON) -m pytest -m slow --timeout 3600 $(PYTEST_ARGS)

bench: $(VENV)/.installed-bench ## Run the benchmarks beside their peers and print the tables
	@for benchmark in $(BENCHMARKS); do echo "== $$benchmark"; $(PYTHON) -m benchmarks.$$benchmark; done

docs: $(VENV)/.installed ## Write what the docs take from the code: settings, events and their schemas, what each broker can do
	$(PYTHON) scripts/generate_configuration_docs.py
	$(PYTHON) scripts/generate_event_docs.py
	$(PYTHON) scripts/generate_messaging_docs.py

lock: $(VENV)/.installed-dev ## Resolve the dependencies again, keeping the versions that still fit
	scripts/lock

clean: ## Remove the virtual environment, caches and the embedded platform's data
	rm -rf $(VENV) .pynomaly .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.installed: requirements.lock pyproject.toml
	@scripts/install requirements.lock
	@touch $@

$(VENV)/.installed-dev: requirements-dev.lock pyproject.toml
	@scripts/install requirements-dev.lock
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-bench: requirements-bench.lock pyproject.toml | $(VENV)/.installed-dev
	@scripts/install requirements-bench.lock
	@touch $@
