# Two commands on a fresh machine with Python 3.11: make demo, make test.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
SERVICES := gateway ingest features joiner trainer publisher client
CACHE := $(or $(FRESHRANK_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/freshrank)
HELM := $(CACHE)/go/bin/helm
STORIES := tests/cluster/test_chart_driven.py tests/cluster/test_rollout.py
export OMP_NUM_THREADS ?= 1

.PHONY: help setup parts demo test test-unit test-pipeline test-long test-cluster test-cluster-stories test-cluster-objects cluster-tools check bench bench-learning proto render docs pins clean
help: ## list the commands
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 16

$(STAMP): requirements/all.txt requirements/uv.txt pyproject.toml
	@echo "[1/3] Python environment"
	@command -v $(PYTHON) >/dev/null || { echo "needs Python 3.11; set PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@echo "[2/3] installer"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@echo "[3/3] pinned packages (about 3 GB the first time, from the local cache afterwards)"
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --no-deps --require-hashes -r requirements/all.txt
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install -q --no-deps --no-build-isolation --offline -e .
	@touch $(STAMP)

setup: $(STAMP) ## the Python environment

parts: $(STAMP) ## Kafka, Java, Redis and Triton, into a cache folder outside the checkout
	@$(BIN)/python -m services.demo.tools

demo: parts ## start everything, drive traffic, show what happened (DATA=, DOMAIN=, KEEP=1, SPEED=, LOCKSTEP=1, SECONDS_=)
	@$(BIN)/python -m services.demo $(if $(DATA),--data "$(DATA)") $(if $(DOMAIN),--domain "$(DOMAIN)") $(if $(KEEP),--keep) $(if $(SPEED),--speed $(SPEED)) $(if $(LOCKSTEP),--lockstep) $(if $(MINUTES),--minutes $(MINUTES)) $(ARGS)

test: test-unit test-pipeline ## everything that needs no Go

# Processes of the unit tests.
JOBS ?= 2
test-unit: $(STAMP) ## no servers, in two processes (JOBS=)
	@$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile

test-pipeline: parts ## minutes: stories on real Kafka, Redis and Triton
	@$(BIN)/python -m pytest -q -m "pipeline and not long" tests

test-long: parts ## an hour: fault campaigns and large generated inputs
	@$(BIN)/python -m pytest -q -m "long" tests

cluster-tools: ## helm, kustomize, a Kubernetes API server, promtool, kube-score: built with Go, minutes the first time
	@$(PYTHON) -m tests.cluster.build

test-cluster: parts cluster-tools ## minutes, needs Go: the chart on a real API server, and the loop run from it
	@$(MAKE) -s -j 2 test-cluster-stories test-cluster-objects

# Side by side: stories mostly wait. Each has an API server of its own.
test-cluster-stories:
	@$(BIN)/python -m pytest -q -m "cluster and not long" $(STORIES)

test-cluster-objects:
	@$(BIN)/python -m pytest -q -m "cluster and not long" tests/cluster tests/deploy $(addprefix --ignore=,$(STORIES))

check: $(STAMP) ## style, types, architecture, generated files
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@PYTHONPATH=. $(BIN)/lint-imports --no-cache

bench: parts ## floors, stock ways and ours, interleaved; writes docs/benchmarks.md
	@$(BIN)/python -m benchmarks $(ARGS)

bench-learning: $(STAMP) ## repeat a part of docs/learning.md (ARGS="--examples ARCHIVE --ratings ML-100K --sessions DIGINETICA")
	@$(BIN)/python -m benchmarks.learning $(ARGS)

proto: $(STAMP) ## regenerate the stubs
	@$(BIN)/python -m grpc_tools.protoc -Iproto --python_out=services/pb --pyi_out=services/pb --grpc_python_out=services/pb proto/freshrank/v1/*.proto

render: $(STAMP) ## render helm/freshrank into k8s (needs Go, to build helm)
	@$(BIN)/python -m tests.cluster.build helm
	@$(BIN)/python -m k8s.render $(HELM)

docs: $(STAMP) ## write the generated tables of docs/ anew
	@$(BIN)/python -m docs.generate

pins: $(STAMP) ## resolve the pinned requirements again
	@$(BIN)/uv pip compile -q pyproject.toml --extra dev --generate-hashes --no-emit-index-url --no-annotate --no-header --python-version 3.11 -o requirements/all.txt
	@for s in $(filter-out trainer,$(SERVICES)) federated tracking; do $(BIN)/uv pip compile -q pyproject.toml --extra $$s -c requirements/all.txt --generate-hashes --no-emit-index-url --no-annotate --no-header --python-version 3.11 -o requirements/$$s.txt; done
	@# The trainer's image also runs the text encoder's worker.
	@$(BIN)/uv pip compile -q pyproject.toml --extra text -c requirements/all.txt --generate-hashes --no-emit-index-url --no-annotate --no-header --python-version 3.11 -o requirements/trainer.txt
	@echo hatchling | $(BIN)/uv pip compile -q - -c requirements/all.txt --generate-hashes --no-emit-index-url --no-annotate --no-header --python-version 3.11 -o requirements/build.txt

clean: ## remove what the commands made inside the checkout
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis demo-report
