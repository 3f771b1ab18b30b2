# make help lists what can be done. PRESET=ci|default|gpu chooses the size of the experiments.
PYTHON ?= python3
PRESET ?= default
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PAGECHECK := tools/pagecheck/node_modules/.package-lock.json
export FLATMINIMA_PRESET := $(PRESET)

.DEFAULT_GOAL := help
.PHONY: help install browser book pdf test search results lint lab serve bench clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1|/' | column -t -s '|'

$(READY): requirements.txt constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt
	@touch $@

# What the tests of the pages need besides: axe-core and html-validate.
$(PAGECHECK): tools/pagecheck/package-lock.json | $(READY)
	$(BIN)/npm ci --prefix tools/pagecheck --no-audit --no-fund --loglevel=error
	@touch $@

install: $(READY) ## make the virtual environment and install everything into it

book: $(READY) ## execute the chapters that have changed and build the book
	$(BIN)/python tools/bundle.py
	$(BIN)/python tools/execute.py
	$(BIN)/jupyter-book build _book --path-output . --quiet
	@echo "The book is at $(CURDIR)/_build/html/index.html"

# Before all else, so that a machine without one says so at once.
browser: $(READY)
	$(BIN)/python tools/browser.py

# Two tests at a time, with one thread each: more would wait for each other.
test: browser $(PAGECHECK) ## everything: lint, unit and theory tests, all chapters, the book and its pages
	$(BIN)/python tools/bundle.py
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not book"
	$(BIN)/python tools/execute.py --fresh
	$(BIN)/jupyter-book build _book --path-output . --all --warningiserror --keep-going --quiet
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup -m "book and not pdf"

search: $(READY) ## run the property tests on new examples, ten times as many as `make test` does
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not book" --hypothesis-profile=search

pdf: browser book ## print the built book as one PDF
	$(BIN)/python tools/make_pdf.py

results: $(READY) ## run the experiments and store their tables (ONLY=name for one of them)
	$(BIN)/python -m study.experiments --preset $(PRESET) $(if $(ONLY),--only $(ONLY)) \
		$(if $(MINUTES),--minutes $(MINUTES))

lint: $(READY) ## repair what ruff, nbstripout and tools/notebooks.py can repair
	$(BIN)/python tools/notebooks.py
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/nbstripout --keep-id chapters/*.ipynb

lab: book ## open copies of the chapters in JupyterLab, kept in _lab where you change them
	$(BIN)/python tools/lab.py
	$(BIN)/jupyter lab --notebook-dir=_lab --ServerApp.extra_static_paths=_build/html

serve: $(READY) ## serve the built book on http://localhost:8000
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory _build/html 8000

BENCH := .venv-bench
bench: ## time the curvature engine against its peers, in an environment of its own
	test -x $(BENCH)/bin/python || $(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --disable-pip-version-check -r benchmarks/requirements.txt
	$(BENCH)/bin/python -m benchmarks

clean: ## remove the built book and the executed chapters (the environment and _lab stay)
	rm -rf _build _book chapters/_static/playground playground/node_modules tools/pagecheck/node_modules
	rm -rf .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv*/*' -prune -exec rm -rf {} +
