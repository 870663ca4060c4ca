# make demo   environment, then the whole flow on a generated catalogue
# make test   environment, then every test but the slow ones (markers `slow` and `wheel`)
# make test-all   every test, as .ci/run does
# make coverage   the tests of `make test`, and the share of lines and branches that they reach
# make check  lint, types and import contracts
# make audit  known vulnerabilities of the pinned dependencies; asks an index on the network
PYTHON ?= $(firstword $(shell command -v python3.11 python3.12 python3.13 python3))
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test test-all coverage check audit

# Two processes, one thread each: a file's tests stay together, since they share what they set up.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

demo: $(READY)
	$(BIN)/adc run --data synthetic --run runs/demo --codebook-size 32 --snapshots 4 --seeds 1 \
		--steps 400

test: $(READY)
	@echo "leaving out the tests marked slow or wheel; make test-all runs them too"
	$(PYTEST) -m "not slow and not wheel"

test-all: $(READY)
	$(PYTEST)

coverage: $(READY)
	mkdir -p build/coverage
	$(PYTEST) -m "not slow and not wheel" --cov --cov-report=term \
		--cov-report=json:build/coverage/coverage.json

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# make docs   the docs site, built into build/site; a warning, such as a dead link, is an error
.PHONY: docs
docs: .venv/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

.venv/.docs: $(READY)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[docs]"
	touch $@

# An environment of its own: pip-audit's dependencies are not ours. --strict: a package that the
# index does not know fails, instead of passing unseen.
audit:
	$(PYTHON) -m venv .venv/audit
	.venv/audit/bin/pip install --quiet pip-audit
	.venv/audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[offline-text,dev]"
	touch $@
