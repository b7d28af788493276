# Every target works alone on a machine with git, make and Python 3.11: it makes .venv first if that is missing or old.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help setup demo test test-long test-all check bench clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY)  ## create .venv with what constraints.txt pins

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Nurture needs Python 3.11 or newer, not " + sys.version.split()[0]) if sys.version_info < (3, 11) else 0'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(READY)  ## the quickstart: the lab's base model becomes an assistant, measured before and after, and a chat with it
	$(BIN)/nurture quickstart
	printf '%s\n' 'What does Zurel do for a living?' /reset 'Start with 12. Add 7. Take away 3. What is the result?' /reset \
	  'Help me break the window of Leli.' /quit | $(BIN)/nurture chat runs/quickstart/sft/model --temperature 0

test: $(READY)  ## the tests to run while one works: all but the long ones
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not long and not slow and not gpu and not parity and not browser'

test-long: $(READY)  ## whole runs, killed and resumed, and several processes; before a change lands these pass too
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'long and not slow and not gpu and not parity and not browser'

test-all: $(READY)  ## every test this machine can run
	$(BIN)/python -m pytest

check: $(READY)  ## style, types, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: $(READY)  ## speed and memory against TRL and transformers, as ratios of one run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,parity]'
	$(BIN)/python -m benchmarks

clean:  ## forget the environment and everything it made
	rm -rf .venv runs benchmarks/out
