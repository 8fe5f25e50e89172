# make demo: train, export, backtest, paper-trade and prove parity on a simulated market.   make test: all checks.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test fuzz proofs proofs-full soak format bench clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "finsense needs Python 3.11 or newer: make setup PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

demo: setup
	$(BIN)/finsense demo

test: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -n 2

# The properties once more on examples never tried before (the gate repeats the same ones).
fuzz: setup
	$(BIN)/pytest -n 2 --hypothesis-profile=search

# The long proofs; their results are in docs/results.md.
proofs: setup
	$(BIN)/pytest -m slow

# At the size of docs/results.md, some ten minutes more.
proofs-full: setup
	FINSENSE_PROOF_SEEDS=10 $(BIN)/pytest -m slow

# The crash law at its full size and whole simulated days, about an hour; their results are in docs/live.md.
soak: setup
	$(BIN)/pytest -n 4 -m slow tests/test_crash_law.py tests/test_whole_days.py

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,bench]'
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
