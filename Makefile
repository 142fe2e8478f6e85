# Everything runs in a virtual environment that the targets make themselves.
#   make demo    a minute: simulate a small office, learn it, find the planted attacks
#   make test    the whole test suite
#   make check   ruff, mypy --strict, the import contract
#   make lock    write requirements.lock again, after a change of pyproject.toml; UPGRADE=--upgrade takes newer releases
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
UV := build/uv

.PHONY: demo test check format lock clean

demo: $(VENV)/.installed
	$(BIN)/thalweg demo

test: $(VENV)/.installed
	$(BIN)/pytest -n 2

check: $(VENV)/.installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# For every system and Python at once. torch is left out: builds for CPU and CUDA have different hashes.
lock:
	$(PYTHON) -m venv $(UV)
	$(UV)/bin/python -m pip install --quiet uv==0.13.9
	$(UV)/bin/uv pip compile pyproject.toml --extra dev --constraint constraints.txt --universal --python-version 3.11 \
	  --generate-hashes --no-emit-package torch --no-annotate --custom-compile-command "make lock" --quiet \
	  --output-file requirements.lock $(UPGRADE)

# The stamp, not the folder, is the target: an install cut short is done again.
$(VENV)/.installed: pyproject.toml constraints.txt requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Thalweg needs Python 3.11 or newer; this is $$($(PYTHON) --version). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "$(PYTHON) cannot make a virtual environment. On Debian or Ubuntu: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	$(BIN)/python -m pip check
	@touch $@

clean:
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
