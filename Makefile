# Everything runs as .venv/bin/python -m ...: scripts in .venv/bin break in a path with spaces.

PYTHON_VERSION := 3.11
PYTHON ?= python$(PYTHON_VERSION) python3
VENV_PYTHON := .venv/bin/python
STAMP := .venv/.installed
LAB_FOLDER ?= notebooks/
LAB_OPTIONS ?=
LOG_FOLDER ?= outputs
TENSORBOARD_OPTIONS ?=
ABLATION_OPTIONS ?=
LOCK_OPTIONS ?= --upgrade
IS_NEW_ENOUGH := import sys; sys.exit(sys.version_info < tuple(map(int, "$(PYTHON_VERSION)".split("."))))

.DEFAULT_GOAL := help
.PHONY: help setup pipeline test test-fast bench ablation lab tensorboard lint format lock

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP) ## create .venv, install the pinned set and the git filter for notebooks
	@# The filter's path is relative: git runs filters at the top of the working tree.
	@if [ "$$(git rev-parse --is-inside-work-tree --show-prefix 2>/dev/null)" = true ]; then \
		git config filter.nbstripout.clean '$(VENV_PYTHON) -m nbstripout --keep-id' && \
		git config filter.nbstripout.smudge cat && \
		git config filter.nbstripout.required true; \
	fi

pipeline: $(STAMP) ## run the five notebooks on drawn data, to a finished report
	@$(VENV_PYTHON) -m clothseg_utils run --profile demo

# A file's tests stay together, as they share what they made; in the order of the names the long
# files begin early.
test: $(STAMP) ## run every test, two files at a time
	@OMP_NUM_THREADS=1 $(VENV_PYTHON) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-fast: $(STAMP) ## run the tests that need no long time, on every core
	@OMP_NUM_THREADS=1 $(VENV_PYTHON) -m pytest -m "not slow" -n auto --dist worksteal

bench: $(STAMP) ## compare the speed of every stage with the usual way, about 11 minutes
	@$(VENV_PYTHON) -m benchmarks

ablation: $(STAMP) ## train the recipe's steps one by one and tabulate their scores, over an hour
	@$(VENV_PYTHON) -m benchmarks.ablation $(ABLATION_OPTIONS)

# Uploads reach the kernel as one message, and a server takes 10 MB unless told: a phone's photos
# are larger.
lab: setup ## open JupyterLab on notebooks/
	@$(VENV_PYTHON) -m jupyterlab $(LAB_FOLDER) --ServerApp.ip=127.0.0.1 $(LAB_OPTIONS) \
		--ServerApp.tornado_settings='{"websocket_max_message_size": 104857600}'

tensorboard: $(STAMP) ## serve the training logs of all runs on 127.0.0.1
	@$(VENV_PYTHON) -m clothseg_utils.workflow.log_server --logdir $(LOG_FOLDER) \
		$(TENSORBOARD_OPTIONS)

lint: $(STAMP) ## check style, notebooks included, and types
	@$(VENV_PYTHON) -m ruff check
	@$(VENV_PYTHON) -m ruff format --check
	@$(VENV_PYTHON) -m mypy

format: $(STAMP) ## sort imports, apply safe fixes, lay out the code
	@$(VENV_PYTHON) -m ruff check --fix
	@$(VENV_PYTHON) -m ruff format

# --universal resolves for every system and every Python from the lowest allowed on.
lock: $(STAMP) ## renew the pinned set from the registry, install it, run every test
	@$(VENV_PYTHON) -m uv pip compile --quiet --universal --python-version $(PYTHON_VERSION) \
		--extra dev --generate-hashes --no-annotate --custom-compile-command "make lock" \
		$(LOCK_OPTIONS) --output-file requirements.lock pyproject.toml
	@$(MAKE) --no-print-directory test

# .venv/.installing marks an installation under way, so a broken one is never built upon. Renamed
# at the end, it keeps the time of the start: a lock edited meanwhile is newer and counts.
$(STAMP): requirements.lock pyproject.toml
	@python=; for candidate in $(PYTHON); do \
		if "$$candidate" -c 'import ensurepip, venv; $(IS_NEW_ENOUGH)' 2>/dev/null; then \
			python=$$candidate; break; \
		fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo "No Python with venv found (tried: $(PYTHON)); expected $(PYTHON_VERSION) or later." \
			"Install it, with its venv package, or name one: make setup PYTHON=..." >&2; \
		exit 1; \
	fi; \
	if [ -e .venv/.installing ] || ! $(VENV_PYTHON) -c 'import pip; $(IS_NEW_ENOUGH)' 2>/dev/null; \
	then \
		"$$python" -m venv --clear .venv || exit 1; \
	fi
	@touch .venv/.installing
	@echo "Installing the pinned set into .venv: some minutes and 6 GB the first time."
	@# Wheels alone: what a source package is built with is fetched without hashes.
	@$(VENV_PYTHON) -m pip install --require-hashes --only-binary :all: -r requirements.lock
	@$(VENV_PYTHON) -m pip install --no-deps --no-build-isolation -e .
	@mv .venv/.installing $(STAMP)
	@echo "Installed into .venv. Next: make pipeline (a report in minutes), or make lab (step by step)."
