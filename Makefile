# Needs nothing but Python 3.11 and make; offline once `make setup` has run.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
TENSORFLOW ?= tensorflow-cpu
BIN := .venv/bin
WORKERS ?= 2
INSTALLED := .venv/.installed-$(TENSORFLOW)
OPTIONAL := .venv/.installed-optional
DOCS := .venv/.installed-docs
NOTEBOOKS := $(wildcard notebooks/*.ipynb colab/*.ipynb)
DEMO := 01_extract_faces 02_make_eye_masks 03_train_gan 04_convert_video 05_evaluate

.PHONY: setup demo notebooks docs test test-fast test-oldest check format bench browser fuzz clean help
.DEFAULT_GOAL := help

help: ## Say what can be made.
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 12
	@echo
	@echo 'With an NVIDIA card: make setup TENSORFLOW=gpu'

setup: $(INSTALLED) ## Install everything at its tested version into .venv.

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -c constraints.txt -e '.[$(TENSORFLOW),notebooks,dev]'
	@rm -f .venv/.installed-*
	@touch $@

demo: $(INSTALLED) ## Run the notebooks on the embedded footage, in build/demo.
	@mkdir -p build/demo
	@for name in $(DEMO); do \
	  echo "== notebooks/$$name.ipynb"; \
	  $(BIN)/papermill --kernel python3 --cwd build/demo \
	    notebooks/$$name.ipynb build/demo/$$name.ipynb || exit 1; \
	done
	@echo
	@echo 'Look at these in build/demo:'
	@echo '  work/swap.mp4            the swapped video'
	@echo '  work/side_by_side.mp4    source, result and mask'
	@echo '  work/evaluation/         how good it is: open report.html'
	@echo '  work/model/previews/     what the networks learned, and when'
	@echo '  work/faces/              the extracted faces'
	@echo '  *.ipynb                  the notebooks with their pictures'

notebooks: $(INSTALLED) ## Open the notebooks in JupyterLab.
	$(BIN)/jupyter lab notebooks

# The tests exercise what is optional, too; face-alignment brings PyTorch.
$(OPTIONAL): $(INSTALLED)
	$(BIN)/python -m pip install -c constraints.txt -e '.[landmarks,provenance,docs]'
	@touch $@

test: $(OPTIONAL) ## Run the tests, two files at a time.
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

test-fast: $(OPTIONAL) ## Run the quick tests only, in a minute or so.
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow"

test-oldest: ## Run the tests with the oldest versions that are allowed.
	$(PYTHON) -m venv build/oldest
	build/oldest/bin/python -m pip install -c constraints-oldest.txt \
	  -e '.[$(TENSORFLOW),notebooks,dev,provenance]'
	build/oldest/bin/python -m pytest -n $(WORKERS) --dist loadfile -W default \
	  --disable-warnings

check: $(INSTALLED) ## Check style, format, imports and that no notebook has outputs.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(if $(NOTEBOOKS),$(BIN)/nbstripout --keep-id --verify $(NOTEBOOKS))

format: $(INSTALLED) ## Put style, format and notebooks in order.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(if $(NOTEBOOKS),$(BIN)/nbstripout --keep-id $(NOTEBOOKS))

$(DOCS): $(INSTALLED)
	$(BIN)/python -m pip install -c constraints.txt -e '.[docs]'
	@touch $@

docs: $(DOCS) ## Build the pages of docs/ in build/site; a warning is an error.
	$(BIN)/zensical build --clean --strict
	@echo 'Open build/site/index.html, or, for its search, the address that this gives:'
	@echo '  $(BIN)/python -m http.server -d build/site'

bench: $(INSTALLED) ## Measure the speed on this machine.
	$(BIN)/python tools/bench.py

browser: $(INSTALLED) ## Run the notebooks in Chromium, which must be there; see build/browser.
	$(BIN)/python -m pip install -c constraints.txt notebook playwright
	$(BIN)/python tools/try_browser.py

fuzz: $(INSTALLED) ## Look for faults by odd input and by kills, for an hour or so.
	$(BIN)/python tools/fuzz.py
	$(BIN)/python tools/kill.py

clean: ## Remove what was built; .venv and weights/ stay.
	rm -rf build .cache *.egg-info .pytest_cache .ruff_cache .import_linter_cache
	find fsgan tests -name __pycache__ -type d -prune -exec rm -rf {} +
