# Everything sets itself up: `make demo` and `make test` need a Python 3.11 and nothing else.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
NO_TRITON = $(BIN)/python -c "from gateway.demo.triton_process import why_not; print(why_not())"
PIP := $(BIN)/python -m pip --disable-pip-version-check -q

.PHONY: help setup demo test test-peers check format bench lock clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/'

setup: $(READY) ## Create .venv with everything pinned in the lock

# Debian splits `venv` and the shared library off into packages of their own. They are fetched only where they
# are missing: without the first there is no .venv, without the second the real Triton does not start.
$(READY): .ci/lock/dev.txt pyproject.toml
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || \
	  { rm -rf $(VENV); apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null && $(PYTHON) -m venv $(VENV); }
	$(PIP) install --require-hashes -r .ci/lock/dev.txt
	$(PIP) install --no-deps --no-build-isolation -e .
	@if $(NO_TRITON) | grep -q libpython && command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	  apt-get update -qq && apt-get install -y -qq libpython3.11 >/dev/null; fi || true
	@$(BIN)/python -m compileall -q gateway backends policies || true
	@touch $@

demo: $(READY) ## A real Triton, three serverless backends that go cold, a burst, and what it cost
	$(BIN)/overspill demo $(ARGS)

test: $(READY) ## Run every test
	$(BIN)/python -m pytest $(ARGS)

PEERS = $(if $(OVERSPILL_PEERS),$(OVERSPILL_PEERS),$(CURDIR)/.venv-peers)
test-peers: $(READY) ## Install servers of others into .venv-peers (ten minutes, 2.3 GB), and try the backends on them
	$(BIN)/python -m tests.peers.recipes
	OVERSPILL_PEERS=$(PEERS) OVERSPILL_PEERS_PYTHON=$(PEERS)/workers/bin/python \
	  $(BIN)/python -m pytest -m "peers or real_triton" -rs $(ARGS)

check: $(READY) ## Lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY) ## Put the code into its standard form
	$(BIN)/ruff check --fix -q .
	$(BIN)/ruff format -q .

bench: $(READY) ## Overspill beside the proxies found on this machine (needs nginx and wrk; see loadtests/README.md)
	$(BIN)/python -m loadtests.bench $(ARGS)

COMPILE := $(VENV)-lock/bin/uv pip compile -q pyproject.toml --python-version 3.11 --generate-hashes \
  --no-header --no-emit-index-url --no-annotate
lock: ## Resolve the dependencies anew
	$(PYTHON) -m venv $(VENV)-lock && $(VENV)-lock/bin/python -m pip -q install uv
	$(COMPILE) --extra dashboards --extra demo --extra grpc --extra otel --extra simulate --extra test -o .ci/lock/dev.txt
	$(COMPILE) -c .ci/lock/dev.txt -o .ci/lock/run.txt
	$(COMPILE) --extra load -c .ci/lock/dev.txt -o .ci/lock/load.txt
	$(COMPILE) --extra grpc --extra llm -c .ci/lock/run.txt -o .ci/lock/llm.txt
	rm -rf $(VENV)-lock

clean: ## Remove what the other targets made
	rm -rf $(VENV) $(VENV)-lock build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
