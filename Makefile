# Two commands: `make run` shows Limpet at work, `make test` proves it. `make help` lists the others.
.DEFAULT_GOAL := help
.PHONY: help run test truth bench lint env dashboard lock clean

FOR ?=
PYTEST ?=
JOBS ?= auto
CASE ?=
BENCH ?=
BIN := .venv/bin

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

run: ## broker, agent and live events, until Ctrl-C or for FOR=20s
	@tools/env.sh run
	@$(BIN)/python tools/build_dashboard.py --once || true
	@$(BIN)/limpet demo $(FOR)

test: ## the whole test suite; PYTEST="tests/test_x.py -x" chooses, JOBS=1 runs it in one process
	@tools/env.sh dev
	@$(BIN)/python tools/build_dashboard.py
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -rs $(PYTEST)

truth: ## what the agent answers in every case of the real data: expected, got, latency; CASE="o09 o11" chooses
	@tools/env.sh dev
	@$(BIN)/python -m tools.truth $(CASE)

bench: ## what Limpet costs here against the bare loop, into docs/performance; BENCH="video latency --quick" chooses
	@tools/env.sh dev
	@$(BIN)/python -m tools.bench $(BENCH)

lint: ## ruff and mypy
	@tools/env.sh dev
	@$(BIN)/ruff check .
	@$(BIN)/mypy

env: ## only make the environment (.venv) with everything in it
	@tools/env.sh dev

dashboard: ## build the browser page from its hash-pinned lock
	@tools/env.sh run
	@$(BIN)/python tools/build_dashboard.py

lock: ## regenerate tools/locks (needs uv; UP=--upgrade takes the newest)
	@tools/lock.sh $(UP)

clean: ## remove the environment, caches and the demo's run folder
	rm -rf .venv .run build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
