PYTHON ?= python3
VENV ?= .venv
PARITY ?= .parity
THIN ?= .thin
SECONDS ?= 1200
BIN := $(VENV)/bin
# All that is installed is pinned, what builds it too, so that a release of today turns nothing red.
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation -c $(LOCK)
LOCK := constraints.txt
PROJECTS := pyproject.toml $(wildcard integrations/*/pyproject.toml)
OURS := m3plugins m3plugins-milvus m3plugins-elasticsearch langchain-m3plugins llama-index-m3plugins
EXAMPLES := quickstart langchain_rag langgraph_node llamaindex_rag from_dense_only
EXAMPLES := $(EXAMPLES:%=examples/%.py)

.PHONY: help install demo test test-elasticsearch9 parity thin lint check-lock format lock dist release bench compat soak fuzz clean

help:  ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

install: $(BIN)/.dev  ## everything for development, into $(VENV)

demo: $(BIN)/.demo  ## index the standard library's documentation, then search it
	PATH="$(abspath $(BIN)):$$PATH" examples/demo.sh

test: $(BIN)/.dev  ## all tests, doctests and examples; those of Elasticsearch where M3_TEST_ES_ZIP names a distribution
	$(BIN)/python -m pytest
	folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
		M3_TEST_MILVUS_URI="$$folder/milvus.db" $(BIN)/python -m pytest -m integration tests/milvus/test_server.py
	set -e; for example in $(EXAMPLES); do echo "$$ python $$example"; $(BIN)/python $$example; done

test-elasticsearch9: $(BIN)/.dev  ## what a server of Elasticsearch 9 may do unlike 8.19; M3_TEST_ES9_ZIP names a distribution
	@test -n "$(M3_TEST_ES9_ZIP)" || { echo "M3_TEST_ES9_ZIP must name an archive of Elasticsearch 9" >&2; exit 2; }
	env -u M3_TEST_ES_URL M3_TEST_ES_ZIP="$(M3_TEST_ES9_ZIP)" $(BIN)/python -m pytest -m elasticsearch9 \
		tests/elasticsearch tests/langchain tests/llamaindex

parity: $(PARITY)/bin/.parity  ## our results against FlagEmbedding's, in an environment that it still runs in
	$(PARITY)/bin/python -m pytest -m parity tests/core

thin: $(THIN)/bin/.thin $(BIN)/.dev  ## what works without torch, in an environment without it
	M3_TEST_SERVICE_PYTHON=$(BIN)/python $(THIN)/bin/python -m pytest --noconftest tests/thin

lint: $(BIN)/.dev  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(BIN)/.dev  ## put the code in shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(BIN)/.pip  ## pin the newest of everything that fits, in constraints.txt and constraints-parity.txt
	$(INSTALL) uv
	set -e; for lock in constraints constraints-parity; do \
		$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.10 --python $(BIN)/python \
			--no-python-downloads --no-annotate --custom-compile-command "make lock  # from $$lock.in" \
			$(OURS:%=--no-emit-package %) --output-file $$lock.txt $$lock.in; \
	done

check-lock: $(BIN)/.dev  ## what is installed is what is pinned, and what is pinned is what the projects ask for
	$(BIN)/python tools/check_lock.py constraints

dist: $(BIN)/.dev  ## wheels and sdists of all five distributions, and what is in them
	$(BIN)/python tools/release.py --no-demo

release: $(BIN)/.dev  ## the same, installed from the wheels alone, and the demo from these
	$(BIN)/python tools/release.py

bench: $(BIN)/.dev $(PARITY)/bin/.parity  ## the benchmarks that need nothing but this checkout
	$(PARITY)/bin/python -m benchmarks.encode
	$(BIN)/python -m benchmarks.memory

compat: $(BIN)/.dev  ## the tests on every version that we claim; ROWS="a b" for some, see benchmarks/compat
	$(BIN)/python -m benchmarks.compat $(ROWS)

soak: $(BIN)/.dev  ## kill -9 in the middle of every write, again and again
	$(BIN)/python -m pytest -m soak
	$(BIN)/python -m benchmarks.soak

fuzz: $(BIN)/.dev  ## hostile checkpoints, corpora and rows, for SECONDS=1200; writes benchmarks/results/DATE-fuzz.md
	$(BIN)/python -m benchmarks.fuzz --seconds $(SECONDS) --output benchmarks/results/$$(date +%F)-fuzz.md

clean:  ## remove the virtual environments, what was built and what the demo made
	rm -rf $(VENV) $(PARITY) $(THIN) .compat dist demo-data

# First what builds: nothing is built in isolation, where what is newest today would build it.
$(BIN)/.pip: $(LOCK)
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) pip editables hatchling setuptools
	@touch $@

$(BIN)/.demo: $(BIN)/.pip pyproject.toml integrations/milvus/pyproject.toml
	$(INSTALL) -e '.[mini,cli]' -e integrations/milvus
	@touch $@

$(BIN)/.dev: $(BIN)/.pip $(PROJECTS)
	$(INSTALL) -e '.[dev]' -e integrations/milvus -e 'integrations/elasticsearch[async]' -e 'integrations/langchain[test]' \
		-e 'integrations/llamaindex[test]' build twine uv
	@touch $@ $(BIN)/.demo

$(PARITY)/bin/.parity: constraints-parity.txt pyproject.toml
	$(MAKE) VENV=$(PARITY) LOCK=constraints-parity.txt $(PARITY)/bin/.pip
	$(PARITY)/bin/python -m pip install --quiet --disable-pip-version-check --no-build-isolation \
		-c constraints-parity.txt -e '.[test]' FlagEmbedding
	@touch $@

# Not the extra `test`, which brings torch.
$(THIN)/bin/.thin: $(LOCK) pyproject.toml integrations/milvus/pyproject.toml
	$(MAKE) VENV=$(THIN) $(THIN)/bin/.pip
	$(THIN)/bin/python -m pip install --quiet --disable-pip-version-check --no-build-isolation -c $(LOCK) \
		-e '.[cli]' -e integrations/milvus pytest pytest-asyncio pytest-timeout
	@touch $@
