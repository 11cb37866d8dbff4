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

.PHONY: demo test lint bench sanitize clean

demo: $(STAMP)  ## Prune the shipped RFDN, restore photographs, write demo-out/report.html.
	$(BIN)/thinlens demo --out demo-out

# Two test processes with one thread each: two cores, and results that do not depend on threads.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/peers  ## Time thin networks beside the best dense engines; goes on where it was stopped.
	$(BIN)/python benchmarks/engines.py --out bench-out

SANITIZED := build/sanitized
# The preloaded libraries must be there before Python; Python itself keeps memory until it ends.
SANITIZERS = LD_PRELOAD="$(foreach name,asan stdc++,$(shell $(CXX) -print-file-name=lib$(name).so))" \
	ASAN_OPTIONS=detect_leaks=0

# Without `site` (-S) the editable package is not found before the sanitized one.
sanitize: $(STAMP)  ## Run the engine's tests in a build (GCC) that stops at memory errors and undefined behaviour.
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(SANITIZED) \
		-C cmake.define.THINLENS_SANITIZE=ON -C install.strip=false .
	OMP_NUM_THREADS=1 $(SANITIZERS) \
		PYTHONPATH=$(SANITIZED):$(wildcard $(VENV)/lib/python3*/site-packages) \
		$(BIN)/python -S -m pytest -q -p no:cacheprovider \
		tests/test_engine_kernels.py tests/test_engine_programs.py tests/test_engine.py \
		tests/test_engine_bands.py tests/test_engine_bf16.py

clean:
	rm -rf $(VENV) build dist demo-out bench-out .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch first and by itself: another package must not choose it.
$(STAMP): pyproject.toml constraints.txt CMakeLists.txt $(wildcard csrc/*)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch==2.13.0 numpy
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

# Not part of `dev`: they add 400 MB, and only comparisons need them. What a platform has no wheels
# of is listed as missing.
$(VENV)/peers: $(STAMP)
	-$(BIN)/python -m pip install --quiet -c constraints.txt torch==2.13.0 -e '.[peers]'
	touch $@
