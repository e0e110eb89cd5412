# Everything a newcomer or the continuous integration runs. `make` alone lists it.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2

# Nothing started from here phones home (docs/privacy.md).
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1
export RAY_USAGE_STATS_ENABLED := 0
export ORT_DISABLE_TELEMETRY := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup nginx orthanc chromium demo bench bench-quick test test-system test-faults test-pacs test-browser test-compose test-all lint \
  check proto format clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.installed  ## Install everything into .venv (needs Python 3.11 or newer and a package registry)

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Consilium needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) --version); try: make PYTHON=python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

nginx:  ## Install nginx, which only the coordinator's gateway needs (as root, on Debian or Ubuntu)
	@if command -v nginx >/dev/null || [ -x /usr/sbin/nginx ]; then exit 0; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update --quiet && apt-get install --quiet --yes --no-install-recommends nginx-light; \
	else echo "nginx is not installed; ask for Debian's package nginx-light (apt-get install nginx-light), as root"; exit 2; fi

orthanc:  ## Install Orthanc, a PACS, which only the tests of importing need (as root, on Debian or Ubuntu)
	@if [ -x /usr/sbin/Orthanc ] && [ -e /usr/share/orthanc/plugins/libOrthancDicomWeb.so ]; then exit 0; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update --quiet && apt-get install --quiet --yes --no-install-recommends orthanc orthanc-dicomweb; \
	else echo "Orthanc is not installed; ask for Debian's packages orthanc and orthanc-dicomweb (apt-get install), as root"; exit 2; fi
chromium:  ## Install chromium, which only the tests in a browser need (as root, on Debian or Ubuntu)
	@if command -v chromium >/dev/null; then exit 0; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update --quiet && apt-get install --quiet --yes --no-install-recommends chromium; \
	else echo "chromium is not installed; ask for Debian's package chromium (apt-get install chromium), as root"; exit 2; fi

demo: setup  ## Train a model over four phantom hospitals; prints where the report is
	$(BIN)/consilium simulate configs/demo.yaml --phantoms

test: setup  ## Run the tests, without those that take minutes
	$(BIN)/pytest -n $(WORKERS) --dist worksteal

test-system: setup nginx  ## Run the tests of a real federation on loopback: processes, keys, TLS (minutes)
	$(BIN)/pytest -n 0 -m system

test-faults: setup nginx  ## Kill processes of a real federation in the middle of its runs (minutes)
	$(BIN)/pytest -n 0 -m faults

test-pacs: setup orthanc  ## Import from a real PACS on loopback, killed half-way (a minute)
	$(BIN)/pytest -n 0 -m pacs

# CONSILIUM_CHROMIUM: another browser; CONSILIUM_SCREENSHOTS: a folder that keeps a picture of each page.
test-browser: setup chromium  ## Use the pages in a real browser (a minute)
	$(BIN)/pytest -n 0 -m browser

# CONSILIUM_DOCKER_ENGINE: where no Docker engine runs, a script that stands in for one. It is called as `SCRIPT build DIR`
# (docker compose build) and `SCRIPT run DIR TEST` (run a shell script with docker at hand).
test-compose: setup  ## Build docker-compose.yml's images and test its containers (minutes; Docker, 6 GB)
	@if docker info > /dev/null 2>&1; then docker compose build && BIN=$(BIN) bash -e tests/system/compose.sh; \
	elif [ -n "$$CONSILIUM_DOCKER_ENGINE" ]; then \
	  bash "$$CONSILIUM_DOCKER_ENGINE" build . && BIN=$(BIN) bash "$$CONSILIUM_DOCKER_ENGINE" run . tests/system/compose.sh; \
	else echo "no Docker engine answers; start one, or name a script that stands in for it: CONSILIUM_DOCKER_ENGINE"; exit 2; fi

test-all: setup nginx orthanc chromium  ## Run all tests but those of containers: slow ones, real processes, a real PACS, a browser
	$(BIN)/pytest -n $(WORKERS) --dist worksteal -m "not system and not faults and not pacs and not browser and not compose"
	$(MAKE) test-system test-faults test-pacs test-browser

# CONSILIUM_SHARED: a folder with data/chest_xray and weights/; benchmarks that need it are left out without it.
bench: setup  ## Run all benchmarks, and write their JSON into benchmarks/results (many minutes)
	$(BIN)/python -m benchmarks.bench

bench-quick: setup  ## Run small versions of the benchmarks (three minutes)
	$(BIN)/python -m benchmarks.bench --quick

lint: setup  ## Formatting, linting, types, import directions
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test  ## The one gate: lint and test

proto: setup  ## Generate the agent's gRPC stubs from client/proto/agent.proto
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. client/proto/agent.proto

format: setup  ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## Remove what the other targets made, the virtual environment too; runs/ stays
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
