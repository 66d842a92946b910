# Everything happens in .venv; `make` alone lists what there is.
PYTHON ?= python3
BIN := .venv/bin
SETUP = @command -v $(PYTHON) >/dev/null || { echo "No $(PYTHON) here: install Python 3.11 or newer."; exit 1; }; \
	$(PYTHON) _setup.py

.PHONY: help setup book test lab labs bench experiments soak mutants grade newest clean

help:      ## this list
	@sed -n 's/^\([a-z]*\): *[a-z]* *## /  make \1\t/p' Makefile | expand -t 20

setup:     ## the package alone, in .venv
	$(SETUP)

book:      ## build the site; the chapters train the full model (minutes)
	$(SETUP) book
	@echo "Building the book: pages whose code changed run first, some for minutes"
	@$(BIN)/jupyter-book build . -q -W -n --keep-going || { rm -rf _build/.doctrees; exit 1; }

test: book ## the book, then every test, the solved labs and the style rules
	$(SETUP) test
	@echo "Testing: every module, every lab, every page"
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lab:       ## JupyterLab on the labs
	$(SETUP) lab
	@$(BIN)/python -m jupyterlab labs

grade:     ## points for a folder of notebooks: make grade SUBMISSIONS=folder LAB=02_moe
	$(if $(and $(SUBMISSIONS),$(LAB)),,$(error Say which: make grade SUBMISSIONS=folder LAB=02_moe))
	$(SETUP) test
	@$(BIN)/python -m tiny_lm.course grade "$(SUBMISSIONS)" --lab "$(LAB)" --out "$(or $(OUT),graded/$(LAB))"

labs:      ## write the labs anew from solutions/*.py
	$(SETUP) test
	@$(BIN)/python -m tiny_lm.course labs

bench:     ## tokens per second, against transformers too (4 minutes)
	$(SETUP) test
	@$(BIN)/python -m tiny_lm.course.bench

experiments: ## the comparisons that chapters show; resumes (1½ hours on an H100)
	$(SETUP) test
	@$(BIN)/python -m tiny_lm.course.experiments
	@$(BIN)/python -m tiny_lm.course.experiments.first_run

soak:      ## 250 calls on 4 and 8 emulated GPUs, some failing on purpose (a minute)
	$(SETUP) test
	@$(BIN)/python -m tiny_lm.course.bench.soak

mutants:   ## every wrong answer kept beside the checks must be refused (half a minute)
	$(SETUP)
	@$(BIN)/python -m tiny_lm.course mutants $(if $(LAB),--lab $(LAB))

newest:    ## the tests with the newest of everything, then with the oldest allowed (an hour)
	@$(PYTHON) _versions.py newest
	@$(PYTHON) _versions.py oldest

clean:     ## forget what was built; the environment and your pieces stay
	rm -rf _build .pytest_cache .ruff_cache
