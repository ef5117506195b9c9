# Everything here needs Python 3.11 or newer and make, nothing else.
# Name another Python with: make PYTHON=python3.12 <target>
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.celeriac-ready
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
HOME_DIR := $(or $(CELERIAC_HOME),.celeriac)
PYTEST := $(BIN)/python -m pytest $(PYTEST_ARGS)
BACKGROUND := $(BIN)/python tools/background.py --directory $(HOME_DIR)/run

.DEFAULT_GOAL := help
.SUFFIXES:
.DELETE_ON_ERROR:

.PHONY: help
help: ## Show this help
	@awk -F ':.*## ' '/^## /{printf "\n%s\n", substr($$0, 4)} \
		/^[a-z0-9-]+:.*## /{printf "  %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

## Set up
.PHONY: setup
setup: $(READY) ## Build .venv from the lock (once; again when the lock changes)

# The stamp is written last: without it the environment is half built and is built anew.
$(READY): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON) here; install Python 3.11 or newer." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("Celeriac needs Python 3.11 or newer; $(PYTHON) is %d.%d. Name another: make PYTHON=python3.12 setup" % v[:2])'
	@if [ ! -e $@ ] || ! $(BIN)/python -c '' 2>/dev/null; then rm -rf $(VENV) && $(PYTHON) -m venv $(VENV); fi
	@rm -f $@
	@echo "Installing the pinned packages into $(VENV) ..."
	@$(PIP) install --quiet --no-deps --only-binary :all: --require-hashes -r requirements.lock
	@$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch $@

# What crews run on; the tests run real ones.
CREWAI := .venv-crewai
CREWAI_READY := $(CREWAI)/celeriac-crewai.json

.PHONY: crews
crews: $(CREWAI_READY) ## Build .venv-crewai, CrewAI's own environment, from its lock (once)

$(CREWAI_READY): celeriac/agents/crewai/requirements.lock | $(READY)
	@$(BIN)/celeriac crews install --venv $(CREWAI)
	@touch $@

.PHONY: crews-lock
crews-lock: $(READY) ## Resolve CrewAI's lock anew (VERSION=1.15.30)
	@test -n "$(VERSION)" || { echo "Name the version: make crews-lock VERSION=1.15.30" >&2; exit 1; }
	@echo "crewai==$(VERSION)" | $(BIN)/uv pip compile - --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-header --quiet -o celeriac/agents/crewai/requirements.lock

# What `make bench` compares Celeriac with, besides bare Celery.
PEERS := .venv-peers
PEERS_LOCK := benchmarks/peers/requirements.lock

.PHONY: bench-peers
bench-peers: $(PEERS)/.ready ## Build .venv-peers for `make bench`: Dramatiq, DBOS, Procrastinate (once)

$(PEERS)/.ready: $(PEERS_LOCK)
	@rm -rf $(PEERS) && $(PYTHON) -m venv $(PEERS)
	@$(PEERS)/bin/python -m pip --disable-pip-version-check --no-input install --quiet \
		--no-deps --only-binary :all: --require-hashes -r $(PEERS_LOCK)
	@touch $@

.PHONY: peers-lock
peers-lock: $(READY) ## Resolve the lock of the peers anew, with their newest versions
	@printf 'dramatiq[redis]\ndbos\nprocrastinate\n' | $(BIN)/uv pip compile - --universal \
		--python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet -o $(PEERS_LOCK)

# The image has what was tested: the same versions, without the tools.
IMAGE_LOCK := $(BIN)/uv pip compile --universal --python-version 3.11 -c requirements.lock \
	--generate-hashes --no-annotate --no-emit-index-url --no-header --quiet

.PHONY: lock
lock: $(READY) ## Resolve requirements.lock anew (add UPGRADE=--upgrade for newer versions)
	$(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 \
		--extra dev --extra local-model --extra flower --extra claude --extra otel --group weights \
		--generate-hashes --no-emit-index-url --no-header --quiet $(UPGRADE) -o requirements.lock
	$(IMAGE_LOCK) pyproject.toml --extra flower --extra otel -o deploy/requirements.lock
	@echo hatchling | $(IMAGE_LOCK) - -o deploy/requirements-build.lock

.PHONY: clean
clean: ## Remove the environment, caches and builds (never the data in .celeriac)
	rm -rf $(VENV) $(CREWAI) $(PEERS) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist
	find celeriac tests -name __pycache__ -type d -prune -exec rm -rf {} +

## Check
.PHONY: check lint types contracts format docs
check: lint types contracts ## Lint, types and import contracts

lint: $(READY) ## Style and likely bugs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY) ## Static types, strict
	$(BIN)/mypy

contracts: $(READY) ## Who may import whom
	$(BIN)/lint-imports --no-logo

format: $(READY) ## Rewrite files in the project's style
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

docs: $(READY) ## Write docs/cli.md anew from the commands
	$(BIN)/python tools/cli_reference.py

## Test
KINDS := unit integration e2e chaos contract
# What `make test` runs, the longest first: two parts at a time, so that both lines end together.
PARTS := chaos integration e2e-cli e2e-celery e2e-others unit-contract
.PHONY: test requirements $(addprefix test-,$(KINDS)) $(addprefix part-,$(PARTS))
test: $(READY) $(CREWAI_READY) ## The whole suite, two parts at a time; each prints when it has ended
	@$(MAKE) --no-print-directory --jobs=2 --keep-going --output-sync=target $(addprefix part-,$(PARTS))

part-chaos: TESTS := tests/chaos
part-integration: TESTS := tests/integration
part-e2e-cli: TESTS := tests/e2e/cli
part-e2e-celery: TESTS := tests/e2e/celery
part-e2e-others: TESTS := tests/e2e --ignore=tests/e2e/cli --ignore=tests/e2e/celery
part-unit-contract: TESTS := tests/unit tests/contract

# Tests that failed run once more: a fault of the code fails again. One that passes then depends on
# the load of the machine. Both runs are printed, and such a test is to be mended.
$(addprefix part-,$(PARTS)): $(READY) $(CREWAI_READY)
	@$(PYTEST) -o cache_dir=.pytest_cache/$@ $(TESTS) || { [ $$? -eq 1 ] && \
	echo "=== $@: the failed tests run once more" && \
	$(PYTEST) -o cache_dir=.pytest_cache/$@ --last-failed --last-failed-no-failures=none $(TESTS); }

test-unit: ## Pure tests, seconds
test-integration: ## With real PostgreSQL and Valkey
test-e2e: ## With real Celeriac processes
test-chaos: ## With killed, frozen and flooded processes
test-contract: ## The HTTP interface against its description
test-integration test-e2e: $(CREWAI_READY)
$(addprefix test-,$(KINDS)): test-%: $(READY)
	$(PYTEST) tests/$*

EXECUTIONS ?= 10000
SEED ?= 1
MINUTES ?= 45
.PHONY: chaos
chaos: $(READY) ## 10,000 executions under random faults, as a table (EXECUTIONS= SEED= MINUTES= POOLER=1 CHAOS_ARGS=)
	@$(BIN)/python -m tests.support.chaos --executions $(EXECUTIONS) --seed $(SEED) --minutes $(MINUTES) $(if $(POOLER),--pooler) $(CHAOS_ARGS)

WIDTH ?= 10000
KILLS ?= 4
RACES ?= 1000
.PHONY: chaos-wide
chaos-wide: $(READY) ## 10,000 items whose workers are killed, and 1,000 runs cancelled at any moment (WIDTH= KILLS= RACES=)
	@$(BIN)/python -m tests.support.chaos.wide --width $(WIDTH) --kills $(KILLS)
	@RACES=$(RACES) $(PYTEST) --timeout 900 tests/e2e/workflows/test_cancelled.py -k any_moment

FIRES ?= 1000
.PHONY: races
races: RACES := 10000
races: $(READY) ## 10,000 submissions that race with ends of slots, and 1,000 fires of five beats (RACES= FIRES=)
	@RACES=$(RACES) $(PYTEST) --timeout 3600 -o faulthandler_timeout=0 tests/integration/services/test_task_limits_races.py -k never_leave_a_slot_free
	@FIRES=$(FIRES) $(PYTEST) --timeout 3600 -o faulthandler_timeout=0 tests/chaos/test_schedules_killed.py -k five_beats

requirements: $(READY) ## Rows of docs/requirements.md without a passing test
	@$(PYTEST) --requirements

## Run
.PHONY: demo bench bench-cancel bench-scale bench-turns bench-limits bench-webhooks bench-planner bench-confinement up run-api run-worker run-worker-bg run-beat run-beat-bg stop logs
demo: $(READY) ## Real agent tasks on a real small model, from nothing to results
	$(BIN)/celeriac demo

up: $(READY) ## The whole stack in the foreground
	$(BIN)/celeriac up

bench: $(READY) ## Benchmarks, as JSON
	$(BIN)/python -m benchmarks

bench-cancel: $(READY) ## How fast a running execution of each runner is cancelled, as JSON
	$(BIN)/python -m benchmarks cancels

bench-scale: $(READY) ## What 10 thousand and a million executions of history cost (SIZES="10000 1000000 10000000")
	$(BIN)/python -m benchmarks scale $(if $(SIZES),--sizes $(SIZES))

bench-turns: $(READY) ## What fair turns cost with up to 10,000 owners and a million waiting executions
	$(BIN)/python -m benchmarks turns

bench-limits: $(READY) ## What limits by key cost with one key and 1,000, and 100,000 waiting executions
	$(BIN)/python -m benchmarks limits

bench-planner: $(READY) ## What 1, 12, 40 and 180 partitions cost, and how statements are planned then
	$(BIN)/python -m benchmarks planner

bench-confinement: $(READY) ## How much later a confined child begins its work, as JSON
	$(BIN)/python -m benchmarks confinement

bench-webhooks: $(READY) ## What receivers that never answer cost the other webhooks
	$(BIN)/python -m benchmarks deliveries

run-api: $(READY) ## The HTTP API in the foreground
	$(BIN)/celeriac api

run-worker: $(READY) ## One worker in the foreground
	$(BIN)/celeriac worker

run-worker-bg: $(READY) ## One worker in the background
	$(BACKGROUND) start worker -- $(BIN)/celeriac worker

run-beat: $(READY) ## The scheduler in the foreground
	$(BIN)/celeriac beat

run-beat-bg: $(READY) ## The scheduler in the background
	$(BACKGROUND) start beat -- $(BIN)/celeriac beat

stop: $(READY) ## Stop what run-worker-bg and run-beat-bg started
	$(BACKGROUND) stop

logs: $(READY) ## Follow the log files
	$(BIN)/celeriac logs --follow
