# make chat    set up, fetch the weights, open the page in the browser
# make test    set up, fetch the weights, run every test
# The rest: setup setup-dev lint bench results serving train clean. Needs python3 (3.11 or newer) with venv, nothing else.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
STAGES := tower connector instruct

.PHONY: chat test setup setup-dev lint bench results serving train clean chromium weights

chat: weights
	$(BIN)/pathassist ui --open

test: setup-dev chromium weights
	$(BIN)/python -m pytest

setup: $(VENV)/.setup
setup-dev: $(VENV)/.setup-dev

# pip comes last into a new environment, so one that was interrupted is made again.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "pathassist needs Python 3.11 or newer;\
	 '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo missing). Install one and run: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "'$(PYTHON)' has no venv module.\
	 Install it (Debian: apt-get install python3-venv) and run make again" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# torch first: it is by far the largest, and an interrupted set-up need not fetch it twice.
$(VENV)/.setup: pyproject.toml constraints.txt | $(BIN)/pip
	$(PIP) torch torchvision
	$(PIP) -e '.[ui,serve,report,remote,wsi,train,eval]'
	@touch $@

$(VENV)/.setup-dev: $(VENV)/.setup
	$(PIP) -e '.[ui,serve,report,remote,wsi,train,eval,postgres,ray,knowledge,dev]'
	@touch $@

weights: setup
	$(BIN)/pathassist doctor --fix

# The page's tests need a browser; without one they are skipped.
chromium:
	@if command -v chromium >/dev/null || command -v chromium-browser >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && [ -f /etc/debian_version ]; then \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	    apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null; } </dev/null \
	  || echo "chromium could not be installed; the browser tests will be skipped" >&2; \
	else echo "no chromium here; the browser tests will be skipped (Debian: apt-get install chromium)" >&2; fi

lint: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup-dev weights
	$(BIN)/python -m eval.bench

# The answers are stored beside the table, so this takes as long as loading the model; move them away to measure anew.
results: weights
	$(BIN)/pathassist eval vqa --model embedded --out eval/results
	$(BIN)/pathassist eval free --model embedded --out eval/results

# 50 conversations for 10 minutes, 10,000 hostile files and requests, kill -9: on an idle machine, about half an hour.
serving: setup-dev weights
	$(BIN)/python -m eval.serving

# make train RESUME=--resume goes on from the last checkpoint. The results go into assistant/weights/embedded.
train: setup
	set -e; for stage in $(STAGES); do \
	  $(BIN)/pathassist train $$stage --recipe training/recipes/embedded-$$stage.yaml $(RESUME); done
	$(BIN)/pathassist train instruct --recipe training/recipes/embedded-polish.yaml --out runs/polish $(RESUME)
	$(BIN)/python -m training.run publish
	$(BIN)/python -m eval.vqa --fit && $(BIN)/python -m eval.free --fit

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o \( -name __pycache__ -o -name '*.egg-info' \) -type d -prune -exec rm -rf {} +
