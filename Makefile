# The README's commands. Each makes the environment it needs; everything else is behind them.
PYTHON ?= python3
VENV := .venv
BARE := .venv-bare
RUN := HF_HUB_OFFLINE=1 $(VENV)/bin

.PHONY: demo test quick lint imports install clean

demo: $(VENV)/.installed  ## Three prompts with and without references, as one page
	$(RUN)/python examples/demo.py

test: $(VENV)/.installed  ## The default tests, in two processes of one thread each
	OMP_NUM_THREADS=1 $(RUN)/pytest --numprocesses 2 --dist loadfile

quick: $(VENV)/.installed  ## `motionrag evaluate ... --quick` on the embedded default, and what is to come out
	$(RUN)/pytest -m slow tests/e2e/test_quick.py

lint: $(VENV)/.installed  ## Style and types
	$(RUN)/ruff format --check .
	$(RUN)/ruff check .
	$(RUN)/mypy

imports: $(BARE)/.installed  ## Every module imports with no extra installed
	cd / && $(CURDIR)/$(BARE)/bin/python -W error::ImportWarning $(CURDIR)/.ci/import_all.py

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

$(BARE)/.installed: pyproject.toml constraints.txt $(shell find src -name '*.py')
	$(PYTHON) -m venv --clear $(BARE)
	$(BARE)/bin/pip install --quiet --constraint constraints.txt .
	touch $@

clean:
	rm -rf $(VENV) $(BARE) build dist outputs .mypy_cache .pytest_cache .ruff_cache
