# Everything from a fresh checkout; needs Python 3.11 or newer, pip and make. `make` alone lists the targets.
PYTHON ?= python3
VENV ?= .venv
HOST ?= 127.0.0.1
PORT ?= 8000
DATA_DIR ?=
PYTEST_ARGS ?=
MINUTES ?= 30
DATABASE ?= sqlite

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
UP := $(BIN)/trainyard up --host $(HOST) --port $(PORT) $(if $(DATA_DIR),--data-dir "$(DATA_DIR)")

.DEFAULT_GOAL := help
.PHONY: help setup demo up test test-gpu faults soak check clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  Variables: PYTHON=$(PYTHON) VENV=$(VENV) HOST=$(HOST) PORT=$(PORT) DATA_DIR=$(or $(DATA_DIR),~/.trainyard)"

setup: $(VENV)/.run ## install Trainyard into .venv

demo: $(VENV)/.run ## start everything and train the demo comparison
	@$(UP) --demo

up: $(VENV)/.run ## start everything
	@$(UP)

test: $(VENV)/.test ## run the tests (PYTEST_ARGS="-k client")
	@$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --ignore tests/gpu $(PYTEST_ARGS)

test-gpu: $(VENV)/.test ## run the tests that need an NVIDIA GPU, one after the other
	@nvidia-smi -L 2>/dev/null | grep -q GPU || \
	 { echo "nvidia-smi lists no GPU: these tests need an NVIDIA GPU and its driver" >&2; exit 1; }
	@$(BIN)/python -m pytest tests/gpu $(PYTEST_ARGS)

faults: $(VENV)/.test ## kill, stop and cut off every part, and print the recovery times
	@TRIALS=20 $(BIN)/python -m pytest tests/faults $(PYTEST_ARGS)

soak: $(VENV)/.test ## kill something every few seconds for MINUTES, on DATABASE=sqlite or postgres
	@$(BIN)/python -m tests.soak --minutes $(MINUTES) --database $(DATABASE)

check: $(VENV)/.dev ## lint, format, types, imports, migrations
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
	 echo "alembic check on a fresh SQLite" && \
	 env -u TRAINYARD_DATABASE_URL TRAINYARD_DATA_DIR="$$folder" $(BIN)/python -m app.migrate --check

clean: ## remove .venv, caches and builds; your data stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	 { echo "Trainyard needs Python 3.11 or newer; '$(PYTHON)' is" \
	   "$$($(PYTHON) --version 2>/dev/null || echo not there). Try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	 { echo "Python cannot make a virtual environment; on Debian: apt install python3-venv" >&2; \
	   rm -rf $(VENV); exit 1; }

# A stamp for each set of packages: when nothing has changed, a second call installs nothing.
$(VENV)/.run: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV); the first time fetches PyTorch and takes a few minutes."
	@$(PIP) -e .
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(BIN)/python
	@$(PIP) -e '.[test]'
	@touch $@ $(VENV)/.run

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@$(PIP) -e '.[dev,test]'
	@touch $@ $(VENV)/.test $(VENV)/.run
