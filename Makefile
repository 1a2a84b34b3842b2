# Everything in two commands:   make quickstart      make test
# The environment: if `python` on the PATH (or PYTHON=…) has what requirements.txt asks for, it is used as it is; else
# .venv is made, once, with the exact versions of constraints/ (see common/environment.py and docs/environments.md).
#   make test PYTHON=python3.9                       use this interpreter, or make .venv with it
#   make test VENV=/tmp/env CONSTRAINTS=constraints/v100.txt

SHELL := /bin/bash
PYTHON ?=
VENV ?=
CONSTRAINTS ?=

STARTER := $(shell for p in python3 python3.11 python3.12 python3.10 python3.9 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 8))' 2>/dev/null && echo $$p && break; done)
ifeq ($(STARTER),)
$(error No Python 3 found. Install Python 3.11, or put it on the PATH)
endif
ENVIRONMENT = PYTHON="$(PYTHON)" VENV="$(VENV)" CONSTRAINTS="$(CONSTRAINTS)" $(STARTER) -m common.environment
SOURCES := $(filter-out tests,$(patsubst %/,%,$(sort $(dir $(wildcard */*.py)))))

.DEFAULT_GOAL := help
.PHONY: help quickstart test lint types doctor environment

help:  ## Show this list
	@grep -hE '^[a-z]+: .*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 20

quickstart:  ## Install if need be, train SICSRec and ADRec on ml-100k, print the test tables
	@python="$$($(ENVIRONMENT) ensure)" && export PYTHON="$$python" && bash run_train.sh && bash run_train.sh ADRec ml-100k \
		&& bash run_test.sh && bash run_test.sh ADRec ml-100k

test:  ## Install if need be, run the test suite
	@python="$$($(ENVIRONMENT) ensure --dev)" && "$$python" -m pytest

lint:  ## Check style and format (ruff)
	@python="$$($(ENVIRONMENT) ensure --dev)" && "$$python" -m ruff check . && "$$python" -m ruff format --check .

types:  ## Check types (mypy)
	@python="$$($(ENVIRONMENT) ensure --dev)" && "$$python" -m mypy $(SOURCES)

doctor:  ## Say what is wrong with the environment and the data, and how to mend it
	@python="$(PYTHON)"; [ -n "$$python" ] || for python in .venv/bin/python python $(STARTER); do \
		command -v $$python >/dev/null && break; done; "$$python" -m common.doctor

environment:  ## Make .venv in any case, and print its interpreter
	@$(ENVIRONMENT) make
