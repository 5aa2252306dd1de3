# Each target is the nox session of its name; arguments: make test ARGS="-k retry"
# Needs Python >= 3.11 and nothing else; another interpreter: make test PYTHON=/path/to/python

.DEFAULT_GOAL := help
TARGETS := dev test lint format type-check package
NOX := .venv/bin/nox
PROBE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))

.PHONY: help clean $(TARGETS)

help:
	@echo "make dev          serve on http://127.0.0.1:8000, reload on change"
	@echo "make test         the whole suite with coverage, about 4 minutes on two cores"
	@echo "make lint         check style and import floors;  make format  fixes the style"
	@echo "make type-check   mypy and pyright, both strict"
	@echo "make package      build sdist and wheel, run the quick tests on the wheel"
	@echo "make clean        remove what the others made"
	@echo
	@echo "A part of the suite:"
	@echo '  make test ARGS="tests/middlewares"                one folder'
	@echo '  make test ARGS="tests/middlewares/test_retry.py"  one file; add -n 0 to debug in one process'
	@echo '  make test ARGS="-k retry"                         tests by name'
	@echo '  make test ARGS="--last-failed"                    what failed the last time'
	@echo
	@echo "Another interpreter: make test PYTHON=/path/to/python3.12"

$(TARGETS): $(NOX)
	@$(NOX) -s $@ -- $(ARGS)

clean: $(NOX)
	@$(NOX) -s clean
	rm -rf .venv

# A name on the PATH may be a shim without an interpreter behind it: the probe runs each.
$(NOX):
	@for python in $(or $(PYTHON),python3.13 python3.12 python3.11 python3); do \
	    if "$$python" -c "$(PROBE)" >/dev/null 2>&1; then \
	        rm -rf .venv && "$$python" -m venv .venv \
	            && .venv/bin/python -m pip install --quiet --disable-pip-version-check nox; exit; \
	    fi; \
	done; \
	echo "llmgw needs Python >= 3.11 with venv (Debian: apt install python3-venv)" >&2; exit 1
