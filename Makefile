# Two commands for a newcomer: `make run` and `make test`. Each installs what it needs first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
ARGS ?=
JOBS ?= 2
OUT ?=
# Not a script, and one that reads finished runs.
NOT_ALONE := benchmarks/reporting.py benchmarks/against_centralised.py
BENCHMARKS := $(filter-out $(NOT_ALONE),$(wildcard benchmarks/*.py))

# The variable leaves out a notice about a later version of mkdocs.
SITE := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir $(VENV)/site

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "airtune needs Python 3.11 or newer: call make with PYTHON=/path/to/python3.11"; exit 2; }
	@echo "Installing airtune into $(VENV) (a minute or two, once) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	@$(PIP) -e '.[test,lint,docs]'
	@touch $@

.PHONY: install
install: $(VENV)/.installed ## Install airtune into .venv

.PHONY: run
run: $(VENV)/.installed ## Run the built-in experiment (ARGS='--set rounds=5', OUT=folder)
	@$(BIN)/airtune run $(if $(OUT),--out $(OUT)) $(ARGS)

# One thread a process: with one on every core, more of them only wait for each other.
.PHONY: test
test: $(VENV)/.installed-test ## Run the test suite (ARGS='-k name' for some of it, JOBS=4 processes)
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

.PHONY: test-processors
test-processors: $(VENV)/.installed-test ## Run the tests as with AVX2 at most and without, on 1 and 2 threads
	@for kind in avx2 default; do for threads in 1 2; do \
		ATEN_CPU_CAPABILITY=$$kind OMP_NUM_THREADS=$$threads \
		$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS) || exit 1; \
	done; done

.PHONY: test-all
test-all: $(VENV)/.installed-test ## Run every test, the long ones too
	@$(BIN)/python -m pytest -m '' --timeout 3600 $(ARGS)

.PHONY: lint
lint: $(VENV)/.installed-test ## Check style and types, and build the documents
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(SITE)

.PHONY: docs
docs: $(VENV)/.installed-test ## Build the documents and show them at http://127.0.0.1:8000
	@$(SITE)
	@$(BIN)/python -m http.server --bind 127.0.0.1 --directory $(VENV)/site

.PHONY: format
format: $(VENV)/.installed-test ## Format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

.PHONY: bench
bench: $(VENV)/.installed-test ## Run the benchmarks; results as JSON in benchmarks/results
	@for script in $(BENCHMARKS); do echo "== $$script"; $(BIN)/python $$script || exit 1; done

.PHONY: compare
compare: $(VENV)/.installed ## Run the comparisons under experiments/ (AIRTUNE_DATA=folder for GSM8K and E2E)
	@failed=0; for name in builtin $(if $(AIRTUNE_DATA),gsm8k e2e); do \
		$(BIN)/airtune compare experiments/compare-$$name.yaml --jobs $$(nproc) || failed=1; \
	done; $(BIN)/python scripts/comparison_tables.py --collect runs; exit $$failed

.PHONY: clean
clean: ## Remove what the other targets made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
