# Everything runs in .venv; it is made once and made anew when what it is made from changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-fast faults fuzz check bench gpu setup clean
.DEFAULT_GOAL := demo

demo: $(READY)  ## sweep demo checkpoints over demo transcripts, no network needed
	$(BIN)/psych-ray sweep results.root=outputs/demo

test: $(READY)  ## all tests, two files at a time: many of them wait more than they work
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not faults"

test-fast: $(READY)  ## without Ray, without slow tests and with few of many similar cases
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not ray and not slow and not faults"

N =
SEED ?= 0
faults: $(READY)  ## N=20 sweeps with disturbed processes, nodes, disks and files, one in four in a bucket, against an undisturbed one; then a table by kind of fault
	$(BIN)/pytest -q -m faults tests/faults
	PYTHONPATH=tests $(BIN)/python tests/faults/campaign.py $(or $(N),20) --seed $(SEED)

fuzz: $(READY)  ## random settings, and random changes to files of every kind: make fuzz N=5000 SEED=7
	PSYCH_RAY_FUZZ=$(or $(N),1000) PSYCH_RAY_FUZZ_SEED=$(SEED) $(BIN)/pytest -q --timeout=0 tests/fuzz

check: $(READY)  ## format, lint, types, direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

BEFORE =
PARTS ?= 20000
bench: $(READY)  ## scoring on this machine's CPU, a sweep's overhead, large tables; make bench BEFORE=COMMIT compares with a commit
	$(BIN)/python -m tests.benchmarks.cpu $(if $(BEFORE),--before $(BEFORE))
	$(BIN)/python -m tests.benchmarks.overhead --participants 1200
	$(BIN)/python -m tests.benchmarks.bookkeeping $(PARTS)
	$(BIN)/python -m tests.benchmarks.gpu

gpu: $(READY)  ## the tests that need a GPU of NVIDIA, then scoring against the loop there, as one table
	$(BIN)/pytest -q tests/gpu
	$(BIN)/python -m tests.benchmarks.gpu

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v[:2] < (3, 14) else "psych-ray needs Python 3.11 to 3.13, this is %d.%d: make PYTHON=python3.12" % v[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(READY)

clean:
	rm -rf $(VENV) build dist outputs
