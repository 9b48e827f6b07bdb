# Everything a person runs by hand. `make` lists the usual targets, `make help-all` the rest.
PYTHON ?= python3
TORCH  ?= torch==2.13.0
VENV   := .venv
PY     := $(VENV)/bin/python
READY  := $(VENV)/.ready
ARGS   ?=

.DEFAULT_GOAL := help
.PHONY: help help-all setup demo demo-loop app serve test test-fast check format bench bench-house bench-classifiers \
	bench-lora bench-guard bench-contexts bench-languages bench-gateway bench-debugger load classifiers screenshots wheel clean

help:
	@awk -F ':.*## ' '/^[a-z-]+:.*[^#]## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile
	@echo "  make help-all     every target"

help-all:
	@awk -F ':.*##+ ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile
	@echo "Variables: PYTHON=$(PYTHON)  TORCH=$(TORCH)  ARGS=(passed on to pytest, demo and bench)"

setup: $(READY) ## make .venv with everything, pinned by constraints.txt (TORCH=... picks another torch)

# torch comes first and by its own requirement, so that TORCH=... never fights the pin in constraints.txt.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.11" >&2; exit 2; }
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@grep -v '^torch==' constraints.txt > $(VENV)/constraints.txt
	@echo "Setting up $(VENV): $(TORCH) first, then the rest (a few minutes the first time)"
	$(PY) -m pip install --quiet "$(TORCH)"
	$(PY) -m pip install --quiet -c $(VENV)/constraints.txt -e '.[all]'
	@touch $@

demo: $(READY) ## the whole main job on the embedded Gemma: teach, guard, generate (about three minutes)
	$(VENV)/bin/safety-kit demo $(ARGS)

demo-loop: $(READY) ## your rule, your log, your complaint: taught, blocked, corrected, measured (ARGS="--lines 500" is quicker)
	$(PY) -m debugger_app.loop $(ARGS)

serve: $(READY) ## the gateway: the guard behind OpenAI's API, on this machine (ARGS="--upstream URL --policy P")
	$(VENV)/bin/safety-kit serve $(ARGS)

app: $(READY) ## the model debugger, in the browser (ARGS="--model M --policy P --port N")
	$(VENV)/bin/safety-kit debug $(ARGS)

test: $(READY) ## every test that needs no GPU (ARGS="-k name" picks some)
	$(PY) -m pytest -m "not gpu and not load" $(ARGS)

test-fast: $(READY) ### the tests that need no model and take no time
	$(PY) -m pytest -m "not slow and not model and not app and not gpu and not load" $(ARGS)

check: $(READY) ## ruff, formatting, mypy, and who may import whom
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: $(READY) ### let ruff format and mend what it can
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

bench: bench-house ## measure everything the README states

bench-house: $(READY) ### cost of guarding, start-up, scoring, teaching: benchmarks/results/house.json
	$(PY) -m benchmarks.house $(ARGS)

bench-classifiers: $(READY) ### few-shot recipes side by side on published sets (ARGS="--data FOLDER", --quick)
	$(PY) -m pip install --quiet -c $(VENV)/constraints.txt -e '.[bench]'
	$(PY) -m benchmarks.classifiers $(ARGS)

bench-lora: $(READY) ### adapters on Google's ETHOS protocol; hours, resumable (ARGS="--data FOLDER")
	$(PY) -m benchmarks.lora $(ARGS)

bench-guard: $(READY) ### what the guard costs and catches (ARGS="--data FOLDER", --quick)
	$(PY) -m benchmarks.guard $(ARGS)

bench-contexts: $(READY) ### the shipped classifiers in ten contexts
	$(PY) -m benchmarks.contexts $(ARGS)

bench-languages: $(READY) ### taught in English, scored in other languages
	$(PY) -m benchmarks.languages $(ARGS)

bench-debugger: $(READY) ### what looking into a run costs: benchmarks/results/debugger.json (needs Chromium)
	$(PY) -m benchmarks.debugger $(ARGS)

bench-gateway: $(READY) ### what the gateway costs and stands, without the long run (--quick, --only endurance)
	$(PY) -m benchmarks.gateway $(ARGS)

load: $(READY) ### a gateway on this machine under load, ten minutes (ARGS=--quick: one)
	$(PY) -m benchmarks.load $(ARGS)

classifiers: $(READY) ## teach the shipped classifiers again, into data/classifiers
	$(PY) -m classifiers.ship

screenshots: $(READY) ### pictures of the debugger, into docs/images (wants chromium)
	$(PY) -m docs.screenshots $(ARGS)

wheel: $(READY) ## build dist/safety_kit-*.whl
	$(PY) -m build --wheel --no-isolation

clean: ### remove what make made, .venv excepted
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
