# Needs Python 3.11 or later, g++ and make; everything else goes into .venv.
PYTHON ?= python3
ARGS   ?=

BIN := .venv/bin
TRITON := triton==3.6.0
PIP_INSTALL := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
CPP := $(shell find csrc tests/csrc -name '*.h' -o -name '*.cuh' -o -name '*.cpp' -o -name '*.cu' 2>/dev/null)

.DEFAULT_GOAL := help
.PHONY: help env install demo test test-all bench docs notebook differences cuda-torch torches tritons ctest lint lint-python lint-cpp lint-types format sdist clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

env: .venv/env.stamp  ## .venv with torch and the build tools

install: .venv/install.stamp  ## advkern into .venv, editable and compiled

demo: install  ## every architecture, trained on real data (ARGS="--help" for more)
	$(BIN)/advkern demo $(ARGS)

test: install  ## the tests, as CI runs them
	$(BIN)/python -m pytest $(ARGS)

test-all: install  ## the tests, with the slow ones at full length
	ADVKERN_TEST_ALL=1 $(BIN)/python -m pytest $(ARGS)

bench: install  ## the benchmarks, beside their peers without and with huge pages, and the tables from them
	$(BIN)/python -m pytest benchmarks $(ARGS)
	THP_MEM_ALLOC_ENABLE=1 $(BIN)/python -m pytest benchmarks $(ARGS)
	$(BIN)/python benchmarks/report.py

docs: install  ## the site, in build/site; a warning fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict $(ARGS)

notebook: install  ## docs/tutorial.ipynb, executed anew
	cd docs && ../$(BIN)/python -m nbconvert --to notebook --execute --inplace tutorial.ipynb \
	  --ExecutePreprocessor.record_timing=False $(ARGS)

differences: install  ## the table of docs/differences.md, measured anew (ADVKERN_TUTORIAL names the tutorial's folder)
	$(BIN)/python tools/differences $(ARGS)

cuda-torch: env  ## a CUDA build of torch that needs no GPU, for the tests of the CUDA kernels' build
	$(BIN)/python tools/torch_env.py build/cuda-torch 2.11.0 pybind11 ninja $(ARGS)

torches: env  ## the ops' tests, from one wheel, under the oldest CUDA torch at hand, this one and the newest
	$(BIN)/python tools/many_torches.py $(ARGS)

tritons: install  ## the tests of the Triton kernels, under the installed Triton and the newest
	$(BIN)/python -m pytest tests/test_triton.py $(ARGS)
	$(PIP_INSTALL) --no-deps --upgrade --target build/newest-triton triton
	PYTHONPATH=$(CURDIR)/build/newest-triton $(BIN)/python -m pytest tests/test_triton.py $(ARGS)

ctest: env  ## the kernels without torch, in C++
	command -v cmake > /dev/null || $(PIP_INSTALL) cmake
	PATH="$$PATH:$(CURDIR)/$(BIN)" && \
	  cmake -S . -B build/cmake -DPython3_EXECUTABLE=$(CURDIR)/$(BIN)/python && \
	  cmake --build build/cmake --parallel 2 && \
	  ctest --test-dir build/cmake --output-on-failure

lint: lint-python lint-cpp lint-types  ## ruff, clang-format and mypy, changing nothing

lint-python: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lint-cpp: install
	$(if $(CPP),$(BIN)/clang-format --dry-run -Werror $(CPP))

lint-types: install
	$(BIN)/mypy

format: install  ## rewrite the sources in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(if $(CPP),$(BIN)/clang-format -i $(CPP))

sdist: env  ## a source distribution in dist/
	$(BIN)/python setup.py --quiet sdist

clean:  ## remove everything that was built, .venv too
	rm -rf .venv build dist *.egg-info advkern/_C.*.so advkern/_build.json

.venv/env.stamp: constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP_INSTALL) setuptools torch pybind11 ninja
	touch $@

# cpu, not auto: a broken compile must not pass as pure Python.
.venv/install.stamp: .venv/env.stamp setup.py pyproject.toml $(shell find csrc -type f 2>/dev/null)
	ADVKERN_BUILD=cpu $(PIP_INSTALL) --no-build-isolation --editable '.[demo,test,bench,docs,lint]'
	$(PIP_INSTALL) --no-deps timm torchvision  # peers of tests; by themselves they would fetch another torch
	@# A CUDA torch brings its own Triton; beside others it is for the tests of the Triton kernels.
	@$(BIN)/python -c 'import triton' 2> /dev/null || $(PIP_INSTALL) --no-deps $(TRITON) || \
	  echo '$(TRITON) cannot be had here: the tests of the Triton kernels will be skipped'
	touch $@
