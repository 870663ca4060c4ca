# make demo   environment, then the whole flow on a generated catalogue
# make test   environment, then every test
# make check  lint, types and import contracts
# make docs   the docs site, built strictly into build/site
# make audit  known vulnerabilities of the pinned dependencies; asks an index on the network
PYTHON ?= $(firstword $(shell command -v python3.11 python3.12 python3.13 python3))
BIN := .venv/bin
READY := .venv/.ready
DOCS_READY := .venv/.docs

.PHONY: demo test check docs audit

demo: $(READY)
	$(BIN)/adc run --data synthetic --run runs/demo --codebook-size 32 --snapshots 4 --seeds 1 --steps 400

test: $(READY)
	$(BIN)/python -m pytest

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Warnings, such as links that lead nowhere, are errors. The site loads nothing from other hosts.
docs: $(DOCS_READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# An environment of its own: pip-audit's dependencies are not ours. --strict: a package that the index does not know fails, instead of passing unseen.
audit:
	$(PYTHON) -m venv .venv/audit
	.venv/audit/bin/pip install --quiet pip-audit
	.venv/audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[offline-text,dev]"
	touch $@

$(DOCS_READY): $(READY)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[docs]"
	touch $@
