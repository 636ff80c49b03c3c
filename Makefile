# Every target creates .venv and installs into it first; a later call finds the stamp and is quick.
#   make train ARGS="--steps 100 --optimizer muon"
#   make test PYTHON=python3.12

PYTHON ?= python3
ARGS ?=
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

FRAMEWORKS := .venv-frameworks
FRAMEWORKS_PIP := $(FRAMEWORKS)/bin/python -m pip install --no-input -c tests/frameworks/constraints.txt
FRAMEWORKS_STAMP := $(FRAMEWORKS)/.installed

# These start processes of their own, one set for all of them.
DISTRIBUTED := tests/sharding
# Tracing makes a test up to twice as slow, so only these run under it; not those that take half of
# their time: all together they add half a percent.
COVERED := tests/polar tests/optim tests/routing tests/modular_norm
UNTRACED := $(patsubst %,tests/%.py,polar/test_stated polar/test_certify_truth polar/test_scale_law \
  polar/test_members optim/test_compiled optim/test_unwaiting optim/test_zero_gradients)
# All the others, so that the gate runs every test once.
REST := $(filter-out $(COVERED) $(DISTRIBUTED),$(patsubst %/,%,$(sort $(wildcard tests/*/)))) \
  $(wildcard tests/test_*.py) $(UNTRACED)
TOGETHER := -n $(WORKERS) --dist worksteal -q

# Without bytecode on disk every process of the tests compiles the library, and pytest its tests.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help train test test-rest test-slow nightly test-frameworks test-kernels coverage check format lint types doctest docs docs-serve wheel static release-check clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null 2>&1 || \
	  { echo "error: '$(PYTHON)' not found; install Python >= 3.11 or name it: make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: '$(PYTHON)' is $$($(PYTHON) -V 2>&1), steepest needs Python >= 3.11; name a newer one: make PYTHON=python3.12" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null 2>&1 || \
	  $(PYTHON) -m venv --clear $(VENV) >/dev/null 2>&1 || \
	  { echo "error: '$(PYTHON) -m venv' failed; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(VENV) holds $$($(BIN)/python -V 2>&1), steepest needs Python >= 3.11; remove $(VENV) and call make again" >&2; exit 1; }
	@echo "Installing steepest and its tools into $(VENV) (once; torch is the largest part)"
	$(BIN)/python -m pip install --no-input --no-compile -c constraints.txt torch hatchling editables
	$(BIN)/python -m pip install --no-input --no-compile -c constraints.txt --no-build-isolation -e '.[train,reproduce,dev,docs]'
	@touch $@

train: $(STAMP) ## train the character GPT with Muon, then AdamW; flags go in ARGS="..."
	$(BIN)/steepest train $(ARGS)

test: $(STAMP) ## the whole test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TOGETHER) --ignore=$(DISTRIBUTED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(DISTRIBUTED)

test-rest: $(STAMP) ## the tests that `make coverage` does not run
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TOGETHER) $(REST)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(DISTRIBUTED)

test-slow: $(STAMP) ## the tests that take minutes each, marked slow (hours)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TOGETHER) --ignore=$(DISTRIBUTED) -m slow
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(DISTRIBUTED) -m slow

nightly: test-slow ## test-slow, then runs that are killed, that end in every way, and that are long (hours)
	OMP_NUM_THREADS=1 $(BIN)/python tools/kill_resume.py 100
	OMP_NUM_THREADS=1 $(BIN)/python tools/kill_resume.py 100 --parallel fsdp
	OMP_NUM_THREADS=1 $(BIN)/python tools/clean_exits.py 100
	OMP_NUM_THREADS=1 $(BIN)/python tools/long_run.py
	OMP_NUM_THREADS=1 $(BIN)/python tools/long_run.py --steps 2000 --ranks 2
	OMP_NUM_THREADS=1 $(BIN)/python tools/long_run.py --worlds 20 --ranks 2

# fastai and ultralytics ask for packages that nothing here needs, and for an older torch.
$(FRAMEWORKS_STAMP): pyproject.toml $(wildcard tests/frameworks/*.txt)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: steepest needs Python >= 3.11; name one: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(FRAMEWORKS)
	$(FRAMEWORKS_PIP) torch hatchling editables
	$(FRAMEWORKS_PIP) -r tests/frameworks/requirements.txt
	$(FRAMEWORKS_PIP) --no-deps -r tests/frameworks/without-requirements.txt
	$(FRAMEWORKS_PIP) --no-build-isolation -e .
	@touch $@

# Without the conftest of tests/: frameworks meet the library as users have it, unchecked.
test-frameworks: $(FRAMEWORKS_STAMP) ## the library inside the frameworks where people train, 2 GB
	OMP_NUM_THREADS=1 $(FRAMEWORKS)/bin/python -m pytest tests/frameworks -q -n $(WORKERS) \
	  --dist loadfile --confcutdir=tests/frameworks -W ignore $(ARGS)

coverage: $(STAMP) ## the tests of the library's core, with the coverage that it must have
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TOGETHER) --cov --cov-report= $(COVERED) \
	  $(addprefix --ignore=,$(UNTRACED))
	@$(BIN)/python tools/coverage_gate.py

test-kernels: $(STAMP) ## the numerical tests under other kernels of the same libraries; flags go in ARGS="..."
	$(BIN)/python tools/kernels.py --workers $(WORKERS) $(ARGS)

check: static test-rest coverage ## the gate: everything from lint to coverage, every test once

static: lint types docs doctest wheel ## the gate without the tests; -j2 halves its time

lint: $(STAMP) ## format and lint, nothing is changed
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m ruff check .

types: $(STAMP) ## mypy --strict
	$(BIN)/python -m mypy

doctest: $(STAMP) ## the examples in the docstrings
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --doctest-modules src/steepest -q

# Not --quiet: it keeps warnings from being counted, and --strict then never fails.
docs: $(STAMP) ## build the documentation, a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	$(BIN)/python tools/site_check.py site

docs-serve: $(STAMP) ## serve the documentation while writing it
	$(BIN)/python -m mkdocs serve

wheel: $(STAMP) ## build the wheel, install it elsewhere and use it there
	$(BIN)/python tools/wheel_smoke.py

# Some minutes and 3 GB: two environments with torch of their own.
release-check: $(STAMP) ## build a release, install it into empty environments, use it; ARGS="--release" to demand all
	$(BIN)/python tools/release_check.py $(ARGS)

format: $(STAMP) ## format and fix what can be fixed
	$(BIN)/python -m ruff format .
	$(BIN)/python -m ruff check --fix .

clean: ## remove what was built; .venv, runs/ and reproductions/ stay
	rm -rf build dist site .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .hypothesis
