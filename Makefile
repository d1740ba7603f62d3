# Two commands are all a newcomer needs: `make demo` and `make test`. Both set everything up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
EXTRAS := test,lint,plot,bench,train,demo
NATIVE := $(wildcard csrc/*.h csrc/*/*.h csrc/*/*.cpp csrc/*/*.cu csrc/*/*.cuh)
FORMATTED := $(NATIVE) $(wildcard tests/cuda_on_cpu/*.h tests/cuda_on_cpu/*.cpp tests/*.cu benchmarks/*/*.cu)
LIBRARY := hashfast/_C.abi3.so

.PHONY: demo test test-milvus test-ray lint format build bench docs clean data FORCE

demo: build
	$(BIN)/hashfast demo --out demo

# As many processes as there are cores and memory for (tests/conftest.py); ARGS="-n 0" is one. Each
# starts with neighbouring tests, which share fixtures, and takes over from others when it is done.
test: build data
	$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

# Libraries that want other versions, or bring much along, have environments of their own.
test-milvus test-ray: test-%: build .venv-%/.dependencies
	.venv-$*/bin/python -m pytest -m $* $(ARGS)

lint: $(VENV)/.dependencies
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(FORMATTED)
	$(BIN)/mypy

format: $(VENV)/.dependencies
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(FORMATTED)

build: $(LIBRARY)

bench: build
	$(BIN)/python benchmarks/bench_ops.py
	$(BIN)/python benchmarks/bench_hswd.py
	$(BIN)/python benchmarks/bench_search.py
	$(BIN)/python benchmarks/bench_multi_hash.py
	$(BIN)/python benchmarks/bench_planner.py
	$(BIN)/python benchmarks/bench_metrics.py
	$(BIN)/python benchmarks/bench_pairs.py
	$(BIN)/python benchmarks/plot.py

# The Fashion-MNIST files that the tests train on.
data:
	@scripts/system-packages dataset-fashion-mnist

$(BIN)/python:
	@$(PYTHON) scripts/check_python.py || { scripts/system-packages python3-venv python3-dev && \
	    $(PYTHON) scripts/check_python.py; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.dependencies: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -c constraints.txt torch torchvision numpy "setuptools>=77" wheel ninja
	$(BIN)/python scripts/requirements.py $(EXTRAS) > $(VENV)/requirements.txt
	$(PIP) -c constraints.txt -r $(VENV)/requirements.txt
	@touch $@

# Version 3 of Milvus Lite has no binary vectors; version 2 wants pkg_resources of old setuptools.
.venv-milvus/.dependencies: ALSO := milvus-lite 'setuptools<80'

# Laid over .venv, whose packages (torch above all) are not installed twice.
.venv-%/.dependencies: $(VENV)/.dependencies
	$(BIN)/python -m venv --clear .venv-$*
	packages() { $$1 -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }; \
	    echo "import site; site.addsitedir('$$(packages $(BIN)/python)')" \
	    > $$(packages .venv-$*/bin/python)/layered.pth
	grep -v '^setuptools=' constraints.txt > .venv-$*/constraints.txt
	$(BIN)/python scripts/requirements.py $* > .venv-$*/requirements.txt
	.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check \
	    -c .venv-$*/constraints.txt -r .venv-$*/requirements.txt $(ALSO)
	@touch $@

# What the build depends on besides files; rewritten only when it changes.
SETTINGS := $(HASHFAST_CUDA) $(TORCH_CUDA_ARCH_LIST) $(CUDA_HOME) $(shell command -v nvcc)
$(VENV)/.settings: FORCE | $(BIN)/python
	@echo '$(SETTINGS)' | cmp -s - $@ || echo '$(SETTINGS)' > $@

$(LIBRARY): $(NATIVE) setup.py $(VENV)/.dependencies $(VENV)/.settings
	@command -v c++ >/dev/null || scripts/system-packages g++
	rm -f hashfast/_C*.so hashfast/_index*.so
	$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

docs: build
	$(BIN)/python scripts/requirements.py docs > $(VENV)/docs.txt
	$(PIP) -c constraints.txt -r $(VENV)/docs.txt
	$(BIN)/sphinx-build -q -W --keep-going docs build/docs

clean:
	rm -rf $(VENV) .venv-* build dist *.egg-info hashfast/*.so demo
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
