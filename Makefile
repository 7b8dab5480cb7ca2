# The two commands of the README are `make check` and `make test`; both create what they need in .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
TARGET ?=
EXPLORE ?=
NODE_WS := conformance/implementations/node-ws

.PHONY: check explore test lint selftest exploration docs check-node outside bench lock clean

check: $(VENV)/.check  ## run the conformance suite against the reference server (or TARGET=...)
	$(BIN)/holdfast check $(TARGET)

explore: $(VENV)/.dev  ## search the reference server (or TARGET=...) for lost messages, with random clients and faults
	$(BIN)/holdfast explore $(TARGET) $(EXPLORE)

test: $(VENV)/.dev lint  ## linters, types, drift checks, and every test
	$(BIN)/python -m pytest -q

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tools.check

selftest: $(VENV)/.dev  ## prove the suite: mutants die, null targets fail, legal variants stay green
	cd conformance && ../$(BIN)/python -m mutants

exploration: $(VENV)/.dev  ## every interleaving of the real cores within small bounds, then the planted bugs
	cd reference && ../$(BIN)/python -m exploration
	cd reference && ../$(BIN)/python -m exploration --bugs

check-node: $(VENV)/.check $(NODE_WS)/node_modules  ## judge the independent Node server
	$(BIN)/holdfast check $(NODE_WS)/target.toml

outside: $(VENV)/.dev  ## Autobahn, a real browser and kill -9 judge the reference server
	$(BIN)/python reference/outside/autobahn.py
	$(BIN)/python reference/outside/browser.py
	$(BIN)/python reference/outside/kill9.py --rounds 3

docs: $(VENV)/.docs  ## build the site into site/, strictly and offline
	$(BIN)/python -m tools.site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(VENV)/.dev  ## the figures of the README, measured here (a few minutes)
	$(BIN)/python reference/benchmarks/server_cpu.py
	$(BIN)/python reference/benchmarks/idle_memory.py
	$(BIN)/python reference/benchmarks/ack_cost.py
	$(BIN)/python reference/benchmarks/memory_bound.py
	$(BIN)/python reference/benchmarks/replay_latency.py
	$(BIN)/python reference/benchmarks/durable_publishes.py
	$(BIN)/python conformance/benchmarks/check_speed.py

lock:  ## refresh locks/ from pyproject.toml (needs uv)
	uv pip compile -q --universal --generate-hashes --no-header --python-version 3.11 pyproject.toml --extra reference -o locks/check.txt
	uv pip compile -q --universal --generate-hashes --no-header --python-version 3.11 pyproject.toml --extra reference --extra pytest --group dev -c locks/check.txt -o locks/dev.txt
	uv pip compile -q --universal --generate-hashes --no-header --python-version 3.11 --group docs -o locks/docs.txt

clean:
	rm -rf $(VENV) .cache site build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.check: locks/check.txt pyproject.toml | $(VENV)/bin/pip
	$(BIN)/pip install -q --disable-pip-version-check -r locks/check.txt
	$(BIN)/pip install -q --disable-pip-version-check --no-deps -e .
	touch $@

$(VENV)/.dev: locks/dev.txt $(VENV)/.check
	$(BIN)/pip install -q --disable-pip-version-check -r locks/dev.txt
	touch $@

$(VENV)/.docs: locks/docs.txt | $(VENV)/bin/pip
	$(BIN)/pip install -q --disable-pip-version-check -r locks/docs.txt
	touch $@

$(NODE_WS)/node_modules: $(NODE_WS)/package-lock.json
	cd $(NODE_WS) && npm ci --no-audit --no-fund --silent
	touch $@
