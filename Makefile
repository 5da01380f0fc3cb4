# Two commands for a newcomer: `make quickstart` and `make test`. Contributors: `make check test` before a commit.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: quickstart test test-slow check docs format man package bench lock clean

quickstart: $(STAMP)
	$(BIN)/arriero quickstart

# Tests that need real weights run when the weights are there; `get` is a no-op the second time.
# A worker for each core takes whole files, the longest first (tests/conftest.py).
test: $(STAMP)
	-$(BIN)/arriero model get smollm2-135m-instruct all-minilm-l6-v2 lid.176
	$(BIN)/python -m pytest -m "not slow and not gpu" -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m "slow"

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/check_sizes.py

# The site in `site/`; what builds it is not in the lock.
docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	$(BIN)/mkdocs build --strict

# All benchmarks beside their peers, into benchmarks/RESULTS.md: hours; `make bench BENCH='--quick --threads 1'` takes one.
bench: $(STAMP)
	$(BIN)/python benchmarks/run.py $(BENCH)

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The sdist and, from it, the wheel, in `dist/`; what builds them is not in the lock.
package: $(STAMP)
	rm -rf dist
	$(BIN)/python -m pip install --quiet --disable-pip-version-check build twine
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

# The manual page, from the commands' help.
man: $(STAMP)
	$(BIN)/python tools/write_man.py

# Build .venv from the pinned versions; done again only when the pins or the project's metadata change.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "arriero needs Python 3.11 or newer, and $(PYTHON) is older: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary :all: --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

# Re-pin every dependency to what resolves today, in a fresh environment.
lock:
	rm -rf $(VENV).lock && $(PYTHON) -m venv $(VENV).lock
	$(VENV).lock/bin/python -m pip install --quiet --editable '.[dev]'
	$(VENV).lock/bin/python -m pip freeze --exclude-editable \
		| sed "s/+cpu$$//; s/^triton==.*/&; platform_system == 'Linux'/" > requirements.lock
	rm -rf $(VENV).lock

clean:
	rm -rf $(VENV) build site dist .pytest_cache .mypy_cache .ruff_cache
