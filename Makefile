# `make demo` and `make test` are all a newcomer needs; both build .venv from the exact lock first.
PYTHON ?= python3
CORES ?= all
# Test processes at a time; each file's tests share one.
WORKERS ?= 2
BIN := .venv/bin
PYTEST := $(BIN)/pytest -n $(WORKERS) --dist loadfile

.PHONY: demo snapshot test test-workflow test-slow test-site site gpu-check cluster cluster-test download image docker-image lint format lock schema clean
.DELETE_ON_ERROR:

demo: .venv/ready
	@echo "Running the default study, config.yaml: data, models, defenses, scores. What is finished stays finished."
	$(BIN)/snakemake --cores $(CORES)
	$(BIN)/python scripts/show.py --study default

# Records the finished default study with DVC; what is not finished is not recorded.
snapshot: .venv/ready
	$(BIN)/python -m scripts.snapshot

test: .venv/ready lint
	$(PYTEST) -m "not workflow and not slow and not cluster and not site"

# What runs Snakemake, in dry runs and in whole runs of a tiny study, or downloads pictures from this machine itself.
test-workflow: .venv/ready .venvs/download/ready
	$(PYTEST) -m "workflow and not slow"

test-slow: .venv/ready .venvs/download/ready
	$(BIN)/pytest -m slow

# The site, in a browser: skipped with a line where neither Chromium nor Chrome is installed.
test-site: .venv/ready .venvs/site/ready
	$(BIN)/pytest -m site -rs tests/site

# The documentation, a page per method and the leaderboard as one static site, site/index.html, which also opens without a server.
site: .venv/ready .venvs/site/ready
	$(BIN)/python -m scripts.site

# What one GPU does, in at most eight minutes: speed, memory, a study; without a network or data. `SMALL=--small` for a CPU.
gpu-check: .venv/ready
	$(BIN)/python benchmarks/gpu_check.py --output results/gpu-check $(SMALL)

# Snakemake and its plugin for Slurm, over the packages of .venv: `source .venvs/cluster/bin/activate`.
cluster: .venvs/cluster/ready

# What datasets from tables of addresses are downloaded with; the jobs find it in .venvs/download.
download: .venvs/download/ready

# The packages of .venv as an image, for `snakemake --sdm apptainer` and for Docker: docs/containers.md.
image: antidote.sif

antidote.sif: apptainer.def requirements.lock
	apptainer build --force $@ apptainer.def

docker-image:
	docker build --tag antidote .

# A real Slurm of one node, on this machine; skipped where its packages can neither be found nor installed.
cluster-test: .venvs/cluster/ready
	$(BIN)/python tests/cluster/slurm.py install || true
	$(BIN)/pytest -m cluster -rs tests/cluster

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
	@echo "Installing $$(grep -c '==' requirements.lock) packages of exact versions into .venv; once, about 6 GB, some minutes."
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

# An environment of its own: where Slurm's commands are found, the plugin asks them something at every start.
SITE := import sysconfig; print(sysconfig.get_path("purelib"))
.venvs/cluster/ready: .venv/ready requirements-cluster.lock profiles/slurm/sacct
	$(BIN)/python -m venv --clear .venvs/cluster
	.venvs/cluster/bin/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements-cluster.lock
	echo "import site; site.addsitedir('$$($(BIN)/python -c '$(SITE)')')" > "$$(.venvs/cluster/bin/python -c '$(SITE)')/antidote.pth"
	printf '#!/bin/sh\nexec "$${0%%/*}/python" -m snakemake "$$@"\n' > .venvs/cluster/bin/snakemake
	chmod +x .venvs/cluster/bin/snakemake
	cp profiles/slurm/sacct .venvs/cluster/bin/sacct
	touch $@

# img2dataset, which downloads; in an environment of its own, since its pins would hold the rest back.
.venvs/download/ready: requirements-download.lock
	$(PYTHON) -m venv --clear .venvs/download
	.venvs/download/bin/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements-download.lock
	touch $@

# MkDocs, which builds the site, and the driver of the browser for its tests.
.venvs/site/ready: requirements-site.lock
	$(PYTHON) -m venv --clear .venvs/site
	.venvs/site/bin/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements-site.lock
	touch $@

# Needs uv; the locks hold for Python 3.11 and 3.12. That of the cluster holds what the other does not.
lock:
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --no-header -o requirements.lock
	uv pip compile pyproject.toml --extra slurm --universal --python-version 3.11 --generate-hashes --no-header -c requirements.lock \
	  $$(sed -nE 's/^([A-Za-z0-9_.-]+)==.*/--no-emit-package \1/p' requirements.lock) | sed '/^$$/,$$d' > requirements-cluster.lock
	uv pip compile --group pyproject.toml:download --universal --python-version 3.11 --generate-hashes --no-header -o requirements-download.lock
	uv pip compile --group pyproject.toml:site --universal --python-version 3.11 --generate-hashes --no-header -o requirements-site.lock

schema: .venv/ready
	$(BIN)/python scripts/schema.py

clean:
	rm -rf .venv .venvs site .pytest_cache .ruff_cache
