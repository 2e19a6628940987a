PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
PROJECTS := pyproject.toml constraints.txt $(wildcard integrations/*/pyproject.toml)
EXAMPLES := quickstart langchain_rag langgraph_node llamaindex_rag from_dense_only
EXAMPLES := $(EXAMPLES:%=examples/%.py)

.PHONY: help install demo test lint format bench compat soak clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(BIN)/.dev  ## everything for development, into $(VENV)

demo: $(BIN)/.demo  ## index the standard library's documentation, then search it
	PATH="$(abspath $(BIN)):$$PATH" examples/demo.sh

test: $(BIN)/.dev  ## all tests, doctests and examples
	$(BIN)/python -m pytest
	M3_TEST_MILVUS_URI="$$(mktemp -d)/milvus.db" $(BIN)/python -m pytest -m integration tests/milvus/test_server.py
	set -e; for example in $(EXAMPLES); do echo "$$ python $$example"; $(BIN)/python $$example; done

lint: $(BIN)/.dev  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(BIN)/.dev  ## put the code in shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(BIN)/.dev  ## the benchmarks that need nothing but this checkout
	$(BIN)/python benchmarks/encode.py
	$(BIN)/python benchmarks/memory.py

compat: $(BIN)/python  ## the tests of each integration on every version of its host that we claim
	$(BIN)/python benchmarks/compat.py

soak: $(BIN)/.dev  ## kill -9 in the middle of every write, again and again
	$(BIN)/python benchmarks/soak.py

clean:  ## remove the virtual environments and what the demo made
	rm -rf $(VENV) .compat demo-data

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(BIN)/.demo: $(BIN)/python pyproject.toml integrations/milvus/pyproject.toml constraints.txt
	$(PIP) -e '.[mini,cli]' -e integrations/milvus
	@touch $@

$(BIN)/.dev: $(BIN)/python $(PROJECTS)
	$(PIP) -e '.[dev]' -e integrations/milvus -e integrations/elasticsearch -e 'integrations/langchain[test]' -e 'integrations/llamaindex[test]'
	@touch $@ $(BIN)/.demo
