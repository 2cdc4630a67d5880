# `make` lists the targets. To use another Python: make demo PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help venv demo study test test-python test-cluster test-export test-package soak lint docs bench bench-large fuzz clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-12s %s\n", $$1, $$2}' Makefile

# pip reads its settings from environment variables, for instance PIP_EXTRA_INDEX_URL for the CPU build of torch.
$(VENV)/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "error: $(PYTHON) is Python " + \
		sys.version.split()[0] + ", expected 3.11 or newer. Type: make $(MAKECMDGOALS) PYTHON=python3.11")'
	@echo "setting up $(VENV), this takes some minutes ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --requirement requirements.lock
	@$(BIN)/python -m pip install --quiet --no-deps --editable . # provides the command `bordure`
	@touch $@

$(VENV)/dev-installed: $(VENV)/installed requirements-dev.lock
	@$(BIN)/python -m pip install --quiet --requirement requirements-dev.lock
	@touch $@

venv: $(VENV)/installed ## set up .venv from requirements.lock

demo: venv ## run the demo: draw a small volume, train, predict, score, report (CPU, some minutes)
	@$(BIN)/snakemake --cores all
	@echo "The demo has finished: open results/report.html in a browser; scores are in results/scores.csv,"
	@echo "the segmentation in results/segmentation/test_labels.tif, the trained model in results/models/unet/model.pt."

study: venv ## run a small study: two variants of the demo with two seeds each, and their comparison (CPU, four minutes)
	@$(BIN)/snakemake --cores all --configfile config/study.yaml
	@echo "The study has finished: open results-study/comparison.html in a browser."

test: $(VENV)/dev-installed ## run all tests, on all cores
	@$(BIN)/python -m pytest --numprocesses auto --dist loadscope --no-loadscope-reorder --max-worker-restart 0 $(TESTS)

# Tests of what works without torch, whose builds for other versions of Python are several gigabytes of CUDA.
WITHOUT_TORCH := $(addprefix tests/test_, metrics_*.py imageio*.py blocks.py labelling.py labels.py layout.py volumes.py \
	postprocessing.py scores.py files.py normalisation.py figures.py evaluation.py synthesis.py memory.py dataset.py segmentation.py)

test-python: ## run the tests that need no torch with another Python: make test-python PYTHON=python3.13
	@$(PYTHON) -m venv $(VENV)-other
	@grep --invert-match '^torch==' requirements.lock > $(VENV)-other/requirements.lock
	@$(VENV)-other/bin/python -m pip install --quiet --requirement $(VENV)-other/requirements.lock
	@$(VENV)-other/bin/python -m pytest --numprocesses auto --dist loadscope $(WITHOUT_TORCH)
	@rm -rf $(VENV)-other

test-cluster: venv ## run the workflow on a private Slurm, which is installed as root on Debian; ten minutes
	@$(BIN)/python -m pytest tests/cluster

# Validators need other versions of packages than bordure, so they have an environment of their own.
EXPORTS := $(VENV)-export
$(EXPORTS)/installed: tests/export/requirements.txt
	@$(PYTHON) -m venv $(EXPORTS)
	@$(EXPORTS)/bin/python -m pip install --quiet --requirement tests/export/requirements.txt
	@touch $@

test-export: $(VENV)/dev-installed $(EXPORTS)/installed ## open exports with napari, ImageJ, bioimage.io and validators; 2 GB
	@rm -rf $(EXPORTS)/files
	@$(BIN)/python tests/export/make.py $(EXPORTS)/files
	@EXPORTS=$(EXPORTS)/files $(EXPORTS)/bin/python -m pytest --noconftest tests/export

test-package: ## build wheel and sdist of the last commit and try them: make test-package PYTHON=python3.13
	@.ci/package $(PYTHON)

soak: venv ## inject faults into running workflows, including kill -9 100 times; an hour on two cores
	@$(BIN)/python -m tests.soak

lint: $(VENV)/dev-installed ## check style, formatting, types and docstrings
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/snakefmt --check Snakefile workflow
	@$(BIN)/snakemake --lint
	@$(BIN)/mypy
	@$(BIN)/python docs/public_api.py

docs: $(VENV)/dev-installed ## build the documentation site in docs/_build/html
	@rm -rf docs/_build docs/_generated docs/reference/api # pages of earlier versions
	@$(BIN)/python -m sphinx --fail-on-warning --nitpicky --quiet docs docs/_build/html
	@echo "The site is built: open docs/_build/html/index.html in a browser."

bench: venv ## measure speed; figures are stored in benchmarks/results/
	@$(BIN)/python -m benchmarks

bench-large: venv ## measure memory and time for 32,768 x 32,768 px and 1,000 volumes; half an hour, 20 GB of disk
	@$(BIN)/python -m benchmarks.bench_large
	@$(BIN)/python -m benchmarks.bench_detection
	@$(BIN)/python -m benchmarks.bench_many

fuzz: venv ## fuzz all code that reads files, ten minutes each; figures: docs/measurements/reliability.md
	@$(BIN)/python -m pip install --quiet "atheris>=3"
	@$(BIN)/python -m tests.fuzz

clean: ## delete the results of the demo and caches, but not .venv
	@rm -rf results results-study .pytest_cache .ruff_cache .hypothesis
	@find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
