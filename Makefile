# `make demo` and `make test` do all set-up themselves, into .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test quick lint clean

demo: .venv/.installed
	$(BIN)/cifarlab train demo
	@$(BIN)/cifarlab plot runs/demo/0

# A few processes, as many as tests/conftest.py says, with one thread each: small tensors gain nothing from more threads.
# Threads wait passively, because busy waiting would slow the processes that tests start. A dead worker is not restarted:
# xdist might then wait for ever.
# Test files are distributed in the order of tests/conftest.py, the longest first.
test: .venv/.installed-test
	$(MAKE) lint
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder \
	  --max-worker-restart 0

# For use after each edit: the linter, and the tests marked `quick`, in less than a minute on two cores. Only files with the
# mark are collected. Tests of real pictures are skipped: unpacking the pictures takes longer than everything else.
quick: .venv/.installed-test
	$(BIN)/ruff check
	CIFARLAB_TEST_PACKS=none OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n 2 --max-worker-restart 0 \
	  -m quick $$(grep -rl --include='*.py' 'mark\.quick' tests)

lint: .venv/.installed-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/basedpyright

clean:
	rm -rf .venv

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("cifarlab needs Python 3.11 or newer; run make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[report]'
	touch $@

.venv/.installed-test: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@
