# Two commands are all a newcomer needs: `make demo` and `make test`. Both set everything up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NATIVE := $(wildcard setup.py pyproject.toml csrc/*.h csrc/*.cuh csrc/*/*)
EXTRAS := test,lint,plot,bench,train
CXX_FILES = $(shell git ls-files 'csrc/*.h' 'csrc/*.cuh' 'csrc/*.cpp' 'csrc/*.cu')

.PHONY: demo test lint format build bench clean data

demo: build
	$(BIN)/hashfast demo --out demo

test: build data
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.dependencies
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)
	$(BIN)/mypy

format: $(VENV)/.dependencies
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

build: $(VENV)/.built

bench: build
	$(BIN)/python benchmarks/bench_ops.py
	$(BIN)/python benchmarks/plot.py

# The Fashion-MNIST files that the tests train on.
data:
	@scripts/system-packages dataset-fashion-mnist

$(VENV)/bin/python:
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || scripts/system-packages python3-venv
	@command -v c++ >/dev/null || scripts/system-packages g++
	$(PYTHON) -m venv $(VENV)

$(VENV)/.dependencies: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	    torch torchvision numpy "setuptools>=77" wheel ninja "pybind11>=3"
	$(BIN)/python scripts/requirements.py $(EXTRAS) > $(VENV)/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	    -r $(VENV)/requirements.txt
	@touch $@

$(VENV)/.built: $(VENV)/.dependencies $(NATIVE)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info hashfast/*.so demo
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
