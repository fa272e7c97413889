# The commands of the README. Everything runs in .venv, made from constraints.txt when it is missing or out of date.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
# A file's tests stay in one process. One thread each: no time is judged here, and threads that wait for each other spin.
BESIDE := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(PY) -m pytest -n logical --maxprocesses 8 --dist loadfile

.PHONY: bench test quick outside check benchmark constraints clean
.DEFAULT_GOAL := bench

$(READY): constraints.txt pyproject.toml $(wildcard requirements/*.txt)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mnistbench needs Python 3.11 or later: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

bench: $(READY)  ## train the grid in grid.yaml, and end with its report
	$(PY) -m mnistbench run grid.yaml

test: $(READY)  ## the whole test suite, in two parts: on all cores, then one by one what is marked alone
	@failed=0; $(BESIDE) -m 'not alone and not gpu and not outside' || failed=1; \
	$(PY) -m pytest -m 'alone and not gpu and not outside' || failed=1; exit $$failed

quick: $(READY)  ## the tests that are not marked slow, on all cores
	$(BESIDE) -m 'not slow and not gpu and not outside'

outside: $(READY)  ## other people's optimizers, networks and losses against a bare loop: some minutes
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[outside]'
	$(PY) -m pytest tests/outside -m 'not gpu'

check: $(READY)  ## style, types, known vulnerabilities
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	@$(PY) .ci/audit.py

benchmark: $(READY)  ## fast beside plain PyTorch loops, and what the rest costs: about 25 minutes, on a quiet machine
	$(PY) benchmarks/versus.py --data $${MNISTBENCH_DATA:-data}
	$(PY) benchmarks/bench_cells.py
	$(PY) benchmarks/bench_scale.py
	$(PY) -m pytest benchmarks --benchmark-only --benchmark-columns=median,iqr,rounds

constraints: $(READY)  ## freeze what is installed now into constraints.txt
	@$(PY) .ci/freeze.py > constraints.new
	@mv constraints.new constraints.txt

clean:
	rm -rf $(VENV)
