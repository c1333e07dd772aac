# `make demo` and `make test` are all a newcomer needs; both build .venv from the exact lock first.
PYTHON ?= python3
CORES ?= all
BIN := .venv/bin

.PHONY: demo snapshot test test-slow lint format lock schema clean
.DELETE_ON_ERROR:

demo: .venv/ready
	$(BIN)/snakemake --cores $(CORES)
	$(BIN)/python scripts/show.py --study default

# Records the finished default study with DVC; what is not finished is not recorded.
snapshot: .venv/ready
	$(BIN)/python -m scripts.snapshot

test: .venv/ready lint
	$(BIN)/pytest -m "not slow"

test-slow: .venv/ready
	$(BIN)/pytest -m slow

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/snakemake --lint

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile rules

# The environment is complete or absent: the marker appears only after the last install step.
.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if v in ((3, 11), (3, 12)) else f"Python 3.11 or 3.12 is needed, this is {v[0]}.{v[1]}: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

# Needs uv; the lock holds for Python 3.11 and 3.12.
lock:
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --no-header -o requirements.lock

schema: .venv/ready
	$(BIN)/python scripts/schema.py

clean:
	rm -rf .venv .pytest_cache .ruff_cache
