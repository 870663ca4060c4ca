# make demo   environment, then the whole flow on a generated catalogue
# make test   environment, then every test
# make check  lint, types and import contracts
PYTHON ?= $(firstword $(shell command -v python3.11 python3.12 python3.13 python3))
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test check

demo: $(READY)
	$(BIN)/adc run --data synthetic --run runs/demo --codebook-size 32 --snapshots 4 --seeds 1 --steps 400

test: $(READY)
	$(BIN)/python -m pytest

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[offline-text,dev]"
	touch $@
