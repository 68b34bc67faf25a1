# make demo: simulated cells to a verdict.   make test: the tests.   make check: format, lint, types.
# make fuzz: damaged inputs, for FUZZ_SECONDS.
VENV ?= .venv
PYTHON ?= python3
CORES ?= all
FUZZ_SECONDS ?= 1200
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c envs/constraints.txt
# Packages and pins; a change makes the environment anew.
LOCK := pyproject.toml envs/constraints.txt

# Benchmarks run rarely: whether they still call the library as it is, no more.
LOOSE = $(addprefix --disable-error-code=,arg-type assignment call-overload list-item misc str-format type-var)

.PHONY: demo test coverage fuzz check docs clean

demo: $(VENV)/.run
	$(BIN)/snakemake --cores $(CORES) all
	@$(BIN)/statetx show results/demo/main/verdict.json --page results/reports/main.html

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# Damaged inputs for everything that reads a file; the tests try fewer.
# Share of lines that the tests run, by file.
coverage: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --cov --cov-report=term:skip-covered

fuzz: $(VENV)/.dev
	$(BIN)/python tests/fuzz/run.py --seconds $(FUZZ_SECONDS)

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy --allow-untyped-calls --ignore-missing-imports $(LOOSE) benchmarks
	$(BIN)/codespell .
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/snakemake --lint

# Files made from the typed configuration: schema and reference table.
docs: $(VENV)/.dev
	$(BIN)/python -m statetx.config.document
	$(BIN)/python -m statetx.stages.schemas

$(BIN)/python:
	@$(PYTHON) -c 'import sys, venv, ensurepip; assert sys.version_info >= (3, 11)' || \
	  { echo "statetx needs Python 3.11 or newer with venv (Debian: apt-get install python3-venv)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip --disable-pip-version-check install --quiet --upgrade pip

# torch first and alone: PyPI's build for this machine, with CUDA where the platform has it.
$(VENV)/.run: $(BIN)/python $(LOCK)
	$(PIP) torch==2.13.0
	$(PIP) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	$(PIP) --editable '.[dev]'
	@touch $@

clean:
	rm -rf results/[!R]* logs .state .snakemake
