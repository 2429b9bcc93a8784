# make setup   virtual environment, pinned tools, editable install with the compiled parts (idempotent)
# make demo    the loss working and paying off, on real images (writes build/demo/)
# make test    the proof;  make lint  ruff, mypy, clang-format;  make check  what CI runs
# make bench   pytest-benchmark tables (BENCH_ARGS=--record keeps the rows);  make bench-quick  its
#              groups at tiny shapes;  make bench-compare BASE=<git ref>  two checkouts interleaved
# make paper   the paper's synthetic figures and properties, its printed numbers beside ours
# make fuzz    20,000 drawn calls of the public functions against float64 (FUZZ_ARGS);  make sanitize
#              csrc/ under Address-, UndefinedBehavior- and ThreadSanitizer (SANITIZE_ARGS)
# make endurance   100,000 calls in one process: memory, threads, files, objects;  make descent
#              gradient descent from collapsed batches, ours and others' (both: RELIABILITY_ARGS=--record)
# make release-check  archives, installations with and without a compiler, oldest versions, in
#              environments of their own (minutes, needs a package index; RELEASE_ARGS=--help)
# make plots   docs/figures/ from recorded rows;  make format  rewrite in the house style
# make gpu     on a CUDA machine, with its own python3: GPU tests and measurements in 9 minutes, rows
#              in $OUT or build/gpu;  make tune  its tiles

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DATA ?=
CSRC := $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.inl' -o -name '*.cu' \
	-o -name '*.cuh')
CXX_FILES := $(CSRC) $(wildcard tests/cuda/emulator/*) tests/sanitize/team.cpp

.PHONY: setup demo test bench bench-quick bench-compare plots paper fuzz sanitize endurance \
	descent release-check lint check gpu tune format clean
.DEFAULT_GOAL := setup

setup: $(STAMP)

$(STAMP): constraints.txt pyproject.toml setup.py csrc/nvcc.py $(CSRC)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		setuptools wheel pybind11 ninja
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt \
		--no-build-isolation -e '.[dev]' --quiet
	$(BIN)/wssl-fast doctor
	touch $@

demo: setup
	DATA='$(DATA)' $(BIN)/python -m benchmarks.demo --out build/demo

test: setup
	$(BIN)/python -m pytest -n auto --dist loadgroup --doctest-modules tests wssl_fast

bench: setup
	$(BIN)/python -m pytest benchmarks $(BENCH_ARGS)

bench-quick: setup
	$(BIN)/python -m pytest benchmarks --quick

bench-compare: setup
	@test -n '$(BASE)' || { echo 'make bench-compare BASE=<git ref>'; exit 2; }
	$(BIN)/python -m benchmarks.compare '$(BASE)' $(COMPARE_ARGS)

plots: setup
	$(BIN)/python -m benchmarks.plots $(PLOTS_ARGS)

paper: setup
	$(BIN)/python -m benchmarks.paper all $(PAPER_ARGS)

fuzz: setup
	$(BIN)/python -m tests.fuzz $(FUZZ_ARGS)

sanitize: setup
	$(BIN)/python -m tests.sanitize $(SANITIZE_ARGS)

endurance: setup
	$(BIN)/python -m benchmarks.reliability endurance $(RELIABILITY_ARGS)

descent: setup
	$(BIN)/python -m benchmarks.reliability descent $(RELIABILITY_ARGS)

release-check: setup
	$(BIN)/python -m tests.release check $(RELEASE_ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)

check: lint test

gpu:
	$(PYTHON) -m benchmarks.gpu run $(GPU_ARGS)

tune:
	$(PYTHON) -m benchmarks.gpu tune $(TUNE_ARGS)

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	rm -f wssl_fast/*.so
