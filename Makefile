# Nothing but Python 3.11 or newer, a C++ compiler and make is needed.
# `make pytest PYTHON=python3.13 TORCH=2.6.0 CXX=clang++ VENV=build/venv` tests another combination
# beside the usual one. `make lint` is for the default torch: mypy reads the types of the installed one.
PYTHON ?= python3
TORCH ?= 2.13.0
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
# Variables, since `-c` does not reach the isolated environment in which the package is built; the
# second is the one that does since pip 25.3.
CONSTRAINTS ?= constraints.txt
PIP_INSTALL := PIP_CONSTRAINT=$(CONSTRAINTS) PIP_BUILD_CONSTRAINT=constraints.txt \
	$(BIN)/python -m pip install --quiet

# Real images and weights; without them `make test` skips what needs them, and says so.
ifndef THINLENS_DATA
ifneq ($(wildcard ../shared/data),)
export THINLENS_DATA := $(abspath ../shared/data)
endif
endif

.PHONY: demo test pytest lint bench torture docs sanitize test-arm64 pytest-engine wheel wheel-twice low audit stub clean

demo: $(STAMP)  ## Compare shipped thin networks, prune one, write demo-out/report.html; a first table in half a minute.
	$(BIN)/thinlens demo --out demo-out

test: lint pytest

# Two test processes with one thread each: two cores, and results that do not depend on threads.
pytest: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2

# The tools of the tests are then the newest that work with these.
low:  ## The tests with the lowest versions that pyproject.toml promises, but for torch: constraints-low.txt.
	$(MAKE) pytest VENV=build/low CONSTRAINTS=constraints-low.txt

audit: $(STAMP)  ## Compare the pinned versions with known vulnerabilities; needs the network.
	$(PIP_INSTALL) pip-audit
	$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip

STUB := src/thinlens/engine/_native.pyi
STUBGEN := $(BIN)/python -m nanobind.stubgen -q -m thinlens.engine._native -o

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	find csrc -name '*.h' -exec $(BIN)/clang-format --dry-run --Werror {} +
	find csrc -name '*.cpp' -exec $(BIN)/clang-format --dry-run --Werror {} +
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(STUBGEN) $(VENV)/_native.pyi
	diff -u $(STUB) $(VENV)/_native.pyi  # if they differ: `make stub`
	awk 'END { if (NR > 80) { print FILENAME ": " NR " lines, wanted at most 80"; exit 1 } }' README.md

stub: $(STAMP)  ## Write the types of the C++ extension to _native.pyi.
	$(STUBGEN) $(STUB)

bench: $(VENV)/peers  ## Time thin networks beside the best dense engines; goes on where it was stopped.
	$(BIN)/python benchmarks/engines.py --out bench-out

docs: $(VENV)/docs  ## Build the documentation site, build/site/index.html; warnings are errors.
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -c docs/site . build/site

torture: $(STAMP)  ## Kills, full disks, fuzzed checkpoints, hostile images, an hour of `restore`, at full size (hours); resumable.
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/torture.py --out torture-out
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/torture_training.py --out torture-out/training
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/torture_hour.py --out torture-out
	-$(PIP_INSTALL) atheris  # not on every platform
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/fuzz_checkpoints.py --out torture-out/fuzzed

ENGINE_TESTS := $(addprefix tests/test_engine,_kernels.py _geometry.py _programs.py _bands.py _pointwise.py \
	_reductions.py .py _streaming.py _bf16.py _winograd.py _int16.py)

SANITIZED := build/sanitized
# The preloaded libraries must be there before Python; Python itself keeps memory until it ends.
SANITIZERS = LD_PRELOAD="$(foreach name,asan stdc++,$(shell $(CXX) -print-file-name=lib$(name).so))" \
	ASAN_OPTIONS=detect_leaks=0

# Without `site` (-S) the editable package is not found before the sanitized one.
sanitize: $(STAMP)  ## Run the engine's tests in a build (GCC) that stops at memory errors and undefined behaviour.
	$(PIP_INSTALL) --no-deps --upgrade --target $(SANITIZED) \
		-C cmake.define.THINLENS_SANITIZE=ON -C install.strip=false .
	OMP_NUM_THREADS=1 $(SANITIZERS) \
		PYTHONPATH=$(SANITIZED):$(wildcard $(VENV)/lib/python3*/site-packages) \
		$(BIN)/python -S -m pytest -q -p no:cacheprovider $(ENGINE_TESTS)

# Debian: g++-aarch64-linux-gnu, qemu-user; without them one line says what is missing.
test-arm64: $(STAMP)  ## Run the engine's cases in the kernels for arm64, cross-compiled and emulated.
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python tests/arm64.py

# Nothing but the engine's tests: for machines that are tens of times slower.
pytest-engine: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -p no:cacheprovider $(ENGINE_TESTS)

# `make wheel PYTHON=python3.12` builds the one of the stable ABI, for 3.12 and all later ones.
wheel:  ## Build the manylinux wheel of PYTHON, and check it in an environment without a compiler.
	packaging/wheel.sh $(PYTHON) $(TORCH)

wheel-twice:  ## Build two wheels of the last commit in two folders; they must be the same bytes.
	packaging/wheel_twice.sh $(PYTHON)

clean:
	rm -rf $(VENV) build dist demo-out bench-out .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Published architectures, without torchvision, which two of them use and which would choose torch.
ARCHITECTURES := spandrel spandrel-extra-arches einops

# torch first and by itself: another package must not choose it.
$(STAMP): pyproject.toml constraints.txt CMakeLists.txt $(wildcard csrc/* csrc/*/*)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) torch==$(TORCH) numpy
	$(PIP_INSTALL) torch==$(TORCH) -e '.[dev]'
	$(PIP_INSTALL) --no-deps $(ARCHITECTURES)
	touch $@

# Not part of `dev`: they add 400 MB, and only comparisons need them. What a platform has no wheels
# of is listed as missing.
$(VENV)/peers: $(STAMP)
	-$(PIP_INSTALL) torch==$(TORCH) -e '.[peers]'
	touch $@

# Sphinx and what it needs; only the site does.
$(VENV)/docs: $(STAMP)
	$(PIP_INSTALL) torch==$(TORCH) -e '.[docs]'
	touch $@
