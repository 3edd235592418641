# `make notebooks` sets up and runs the whole course; `make test` sets up and passes all tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export MPLBACKEND :=

.DEFAULT_GOAL := help
.PHONY: help setup notebooks outputs student lab explorer test quick test-browser chromium coverage mutation lint format benchmark train-garden site wheel clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-13s %s\n", $$1, $$2}'

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[notebooks,test]"
	@touch $@

setup: $(READY)  ## make .venv with everything in it

notebooks: $(READY)  ## run the whole course into build/ and regenerate the README's figures there
	$(BIN)/python notebooks/run.py --into build

outputs: $(READY)  ## run the course in place: refresh committed outputs and figures/
	$(BIN)/python notebooks/run.py --in-place

student: $(READY)  ## write the course without outputs and answers into build/student/
	$(BIN)/python notebooks/student.py build/student

lab: $(READY)  ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks

explorer: $(READY)  ## open the explorer in a browser, served by Voila on this machine only
	$(BIN)/voila notebooks/explorer.ipynb --Voila.ip=127.0.0.1 \
		--Voila.tornado_settings="{'websocket_max_message_size': 104857600}"

test: $(READY) lint  ## lint, type-check and run all tests, notebooks included
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder
	OMP_NUM_THREADS=1 VITEXPLAIN_FIGURES=$(CURDIR)/build/figures \
		$(BIN)/python -m pytest --nbval --nbval-current-env --nbval-cell-timeout 300 \
		--nbval-sanitize-with notebooks/sanitize.cfg --numprocesses 2 --dist loadscope notebooks

quick: $(READY)  ## run the tests that take no minute: no notebook, no browser, nothing marked slow
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m "not slow"

test-browser: $(READY) chromium  ## test the explorer and the page in a real browser; install Chromium if need be
	VITEXPLAIN_BROWSER=1 $(BIN)/python -m pytest tests/test_explorer_browser.py tests/test_page_browser.py

coverage: $(READY)  ## which lines of the package no test runs; at least 97 % must be run
	$(BIN)/python -m pytest --numprocesses 2 --ignore tests/test_explorer_browser.py \
		--cov vitexplain_utils --cov-report term-missing:skip-covered --cov-fail-under 97

mutation: $(READY)  ## change the mathematics in 240 places, one at a time: which do the tests notice?
	$(BIN)/python -m pip install --quiet --editable ".[mutation]"
	$(BIN)/python tests/mutation/run.py

chromium:  ## install Chromium with apt, as root, where there is none
	@command -v chromium || command -v chromium-browser || command -v google-chrome || { \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium; } || { \
		echo "Install Chromium or Chrome for the browser test."; exit 1; }

lint: $(READY)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)  ## let ruff put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: $(READY)  ## measure speed, memory and truth into benchmarks/results (45 minutes)
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/garden_table.py

train-garden: $(READY)  ## train the garden model anew (under an hour on two cores)
	$(BIN)/python training/train_garden.py

site: $(READY)  ## build the course, a playground and the reference as a website into build/site
	$(BIN)/python -m pip install --quiet --editable ".[site]"
	$(BIN)/python site/build.py

wheel: $(READY)  ## build the wheel into dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:  ## remove what was built (not .venv)
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache
