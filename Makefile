# `make demo` and `make test` do all set-up themselves, into .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test quick lint clean

demo: .venv/.installed
	$(BIN)/cifarlab train demo
	@$(BIN)/cifarlab plot runs/demo/0

# A process a core, of one thread each: small tensors gain nothing from more. Threads that wait for one another in a busy
# loop take the time of the processes that tests start. A worker that dies is not begun anew: xdist may then wait for ever.
# Files are handed out in the order of tests/conftest.py, the longest first.
test: .venv/.installed-test
	$(MAKE) lint
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder \
	  --max-worker-restart 0

# After each edit: the linter, and the tests that are marked quick, in less than a minute on two cores. Only files with the
# mark are read. None of the real pictures: to unpack them takes longer than all else.
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
