# Two commands, each doing its own set-up in .venv:
#
#   make demo    segment the example pictures with the bundled model and say where the results are
#   make test    the quick tests: every law, one small instance of each
#
# Then: make test-all (the long counts too), make lint, make docs (the site), make tutorial (runs the notebook),
# make benchmarks (every table of docs/performance.md), make clean (build and test leftovers, not .venv).
#
# On a machine without a GPU the CPU build of PyTorch is a far smaller download:
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu

PYTHON ?= $(or $(shell command -v python3.11),python3)
TORCH_INDEX ?=
VENV ?= .venv
WORKERS ?= 2

BIN := $(VENV)/bin
TORCH := $(shell grep "^torch==" constraints.txt)
# Test processes run side by side, and small tensors gain nothing from threads.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

.PHONY: demo test test-all lint docs tutorial benchmarks clean

demo: $(VENV)/.installed
	$(BIN)/python examples/demo.py

test: $(VENV)/.installed-dev
	$(PYTEST) -m "not slow"

test-all: $(VENV)/.installed-dev
	$(PYTEST)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.installed-dev
	$(BIN)/zensical build --strict

tutorial: $(VENV)/.installed-dev
	$(BIN)/python -m pytest tests/test_notebook.py

benchmarks: $(VENV)/.installed-dev
	$(BIN)/genmask benchmark --markdown
	$(BIN)/python benchmarks/fast_paths.py --markdown
	$(BIN)/python benchmarks/cold_start.py
	$(BIN)/python benchmarks/peers.py --markdown
	$(BIN)/python benchmarks/scaling.py inference
	$(BIN)/python benchmarks/scaling.py training
	$(BIN)/python benchmarks/scaling.py predict

clean:
	rm -rf site build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# The stamps are made anew where the pinned versions or the dependencies have changed.
$(VENV)/.torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --no-deps $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	$(BIN)/python -m pip install -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	touch $@
