# Each target does its own set-up: a virtual environment in .venv with this package (editable) and its
# `dev` and `demo` extras. `make help` lists the targets.
#
#   PYTHON=/path/to/python  chooses the interpreter for a new .venv (3.10, 3.11, 3.12; 3.13 without PaddleNLP)
#   ARGS="..."              is handed on to pytest, to the matrix (`make matrix ARGS=--help`), the demo or torture

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

# Workers of the tests; each of them holds Paddle. Files stay whole, as their tests share what they build.
TOGETHER := --numprocesses=auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder

# Tools run as `python -m tool`: the scripts in .venv/bin stop working when the folder is moved.
CODE := ofa_slim tests examples benchmarks

PYTHON_GIVEN := $(filter-out undefined,$(origin PYTHON))
PYTHON ?= python3
CANDIDATES := $(if $(PYTHON_GIVEN),"$(PYTHON)",$(PYTHON) python3.12 python3.11 python3.10)

# Exits 0 on a Python that has wheels for every dependency and can make a virtual environment. On 3.13, without
# PaddleNLP, for those who name it.
SUITABLE := import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, $(if $(PYTHON_GIVEN),14,13)))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup test quick matrix torture lint check style demo examples bench faults docs docs-serve wheel clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

setup: $(STAMP) ## make the virtual environment and install into it

test: $(STAMP) ## run the tests, a file per core at a time
	$(PY) -m pytest $(TOGETHER) $(ARGS)

quick: $(STAMP) ## run the tests that start no processes and take no long time
	$(PY) -m pytest $(TOGETHER) -m 'not slow' $(ARGS)

matrix: ## run the tests on every supported release of Paddle, in environments of their own (2 GB each)
	$(PYTHON) tests/matrix.py $(ARGS)

torture: $(STAMP) ## random hostile models, all checks (ARGS="--seed 1 --minutes 10", or --cases 3000, or --only N)
	PYTHONPATH=tests/support:$(CURDIR) $(PY) tests/torture/torture.py $(ARGS)

lint: $(STAMP) ## ruff, mypy and import-linter, changing nothing
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -c 'from importlinter.cli import lint_imports_command; lint_imports_command()'

check: lint test ## lint, then the tests

style: $(STAMP) ## format the code and apply ruff's safe fixes
	$(PY) -m ruff check --fix-only .
	$(PY) -m ruff format .

demo: $(STAMP) ## compress a BERT on movie-review snippets, search and report included (10 to 20 minutes)
	$(PY) examples/fetch_demo_data.py
	$(PY) -m ofa_slim.cli compress examples/recipes/movie-reviews.yaml --output_dir runs/demo $(ARGS)
	$(PY) -m ofa_slim.cli pick runs/demo --budget latency_ratio=0.5 --finish --formats onnx-int8

examples: $(STAMP) ## four GLUE tasks as a table, where their files are in data/GLUE or GLUE_DIR (up to an hour)
	$(PY) examples/fetch_demo_data.py
	$(PY) examples/glue.py $(ARGS)

bench: $(STAMP) ## run the benchmarks; those on SST-2 only where its files are
	$(PY) examples/fetch_demo_data.py
	$(PY) benchmarks/train_step.py --paddleslim
	$(PY) benchmarks/profile_step.py
	$(PY) benchmarks/importance.py
	$(PY) benchmarks/memory.py
	$(PY) benchmarks/latency_table.py
	$(PY) benchmarks/convert.py
	$(PY) benchmarks/vision_models.py
	OMP_NUM_THREADS=1 $(PY) examples/cnn_digits.py --output_dir runs/digits
	$(PY) benchmarks/time_to_accuracy.py --paddleslim
	$(PY) benchmarks/closed_form.py
	$(PY) benchmarks/closed_form_start.py
	$(PY) benchmarks/closed_form_glue.py
	$(PY) benchmarks/harder.py --vocabulary
	$(PY) benchmarks/uniform.py
	$(PY) benchmarks/growth.py --large
	OMP_NUM_THREADS=1 $(PY) examples/decoder_minitron.py
	OMP_NUM_THREADS=1 $(PY) benchmarks/closed_form_digits.py
	$(PY) benchmarks/search.py
	OMP_NUM_THREADS=1 $(PY) benchmarks/optimisers.py
	OMP_NUM_THREADS=1 $(PY) benchmarks/embeddings.py
	OMP_NUM_THREADS=1 $(PY) benchmarks/vocabulary.py
	$(PY) benchmarks/formats.py

faults: $(STAMP) ## kill jobs at random moments and check what is left (half an hour; ARGS="--seed 1 --kills 30")
	PYTHONPATH=tests/support:examples OMP_NUM_THREADS=1 $(PY) -W ignore tests/faults/run.py $(ARGS)

wheel: $(STAMP) ## build the wheel into dist/
	rm -rf build/lib build/bdist.*
	$(PY) -m pip wheel --no-deps --no-build-isolation --wheel-dir dist .

docs: $(STAMP) ## build the site into build/site; a broken link fails
	$(PY) -m mkdocs build

docs-serve: $(STAMP) ## show the site on a local port, following changes
	$(PY) -m mkdocs serve

docs docs-serve: export NO_MKDOCS_2_WARNING := 1

clean: ## remove the virtual environments, builds and caches; data/ and runs/ stay
	rm -rf $(VENV) .matrix build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(wildcard $(CODE)) -name __pycache__ -type d -prune -exec rm -rf {} +

# Paddle uses one thread unless told otherwise; a training step is about 1.5 times faster on two cores.
demo examples bench: export OMP_NUM_THREADS := $(or $(OMP_NUM_THREADS),$(shell getconf _NPROCESSORS_ONLN))

# On AMD processors the math library in Paddle's wheel chooses a slow path unless this is set (2.5 times
# slower matrix products on a Zen core); on others it could forbid the faster AVX-512 one.
ifneq ($(shell grep -m 1 AuthenticAMD /proc/cpuinfo 2>/dev/null),)
demo examples bench: export MKL_DEBUG_CPU_TYPE := $(or $(MKL_DEBUG_CPU_TYPE),5)
endif

# The stamp holds the folder that the editable install points to: a moved project installs again.
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif

$(STAMP): pyproject.toml
	@rm -f $@
	@if ! $(PY) -c '$(SUITABLE)' 2>/dev/null; then \
	  found=; for python in $(CANDIDATES); do \
	    if "$$python" -c '$(SUITABLE)' 2>/dev/null; then found=$$python; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo 'ofa_slim needs Python 3.10, 3.11 or 3.12 with its venv module: PaddleNLP needs packages that' >&2; \
	    echo 'have no wheels for others. None of these is one:' $(CANDIDATES) >&2; \
	    echo 'Name one with: make PYTHON=/path/to/python3.11' >&2; \
	    exit 1; \
	  fi; \
	  echo "Making $(VENV) with $$("$$found" --version) and installing into it (some minutes, about 2 GB)"; \
	  "$$found" -m venv --clear $(VENV); \
	fi
	$(PY) -m pip install --disable-pip-version-check --editable '.[dev,demo]'
	@printf '%s\n' '$(CURDIR)' > $@
