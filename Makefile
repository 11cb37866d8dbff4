# Nothing but Python 3.11 or newer, a C++ compiler and make is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

# Real images and weights; without them `make test` skips what needs them, and says so.
ifndef THINLENS_DATA
ifneq ($(wildcard ../shared/data),)
export THINLENS_DATA := $(abspath ../shared/data)
endif
endif

.PHONY: demo test lint bench clean

demo: $(STAMP)  ## Prune the shipped RFDN, restore photographs, write demo-out/report.html.
	$(BIN)/thinlens demo --out demo-out

# Two test processes with one thread each: two cores, and results that do not depend on threads.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)  ## Time a training step, least squares and a restoration on this machine.
	$(BIN)/python benchmarks/stages.py

clean:
	rm -rf $(VENV) build dist demo-out .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch first and by itself: another package must not choose it.
$(STAMP): pyproject.toml constraints.txt CMakeLists.txt $(wildcard csrc/*)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch==2.13.0 numpy
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@
