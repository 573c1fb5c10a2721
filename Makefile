# Each target makes .venv and installs what it needs by itself. Only test-vm needs root.
#
#   make demo            a whole mesh on this machine, until Ctrl-C
#   make demo CHECK=1    the demo's scenario, step by step, with figures; JSON=1 prints them as JSON
#   make demo CLUSTERS=2 so many clusters, peered; with CHECK=1 the scenario over them
#   make test            all tests, those with real servers too; TESTS=tests/unit for a part
#   make chaos           what takes minutes: links between clusters that are cut for long, the scenario of three clusters
#   make test-vm         tests on hosts that boot a real Debian; VM=short leaves the long ones out
#   make lint            ruff, mypy, import contracts
#   make lint-ansible    the collection in ansible/, by ansible-lint's profile "production"
#   make bench           measures; table and JSON

SHELL := /bin/bash
BIN := .venv/bin
TESTS ?= tests
VM_TESTS ?= tests/vm
PYTEST_ARGS ?=
BENCH_ARGS ?=

.PHONY: help demo test chaos test-vm lint lint-ansible format bench servers dev clean

help:
	@sed -n 's/^#   //p' Makefile

demo:
	@.ci/venv demo
	@$(BIN)/holdfast demo $(if $(CLUSTERS),--clusters $(CLUSTERS)) $(if $(CHECK),--check) $(if $(JSON),--json)

test: servers
	@.ci/test $(PYTEST_ARGS) $(TESTS)

chaos: servers
	@$(BIN)/python -m pytest -n0 -p no:randomly -s $(PYTEST_ARGS) tests/chaos
	@$(BIN)/holdfast demo --clusters 3 --check

# Hosts wait for root, and for the packages that tests/vm/shell.py names.
test-vm: servers
	@$(BIN)/python -m tests.vm image $(if $(filter short,$(VM)),bare standard) >/dev/null
	@$(BIN)/python -m pytest -n0 -p no:randomly $(if $(filter short,$(VM)),-m "not slow") $(PYTEST_ARGS) $(VM_TESTS)

lint: dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

lint-ansible: dev
	@.ci/lint-ansible

format: dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: servers
	@$(BIN)/python -m bench $(BENCH_ARGS)

# Builds etcd if need be: here with a word on it, rather than under the time limit of whichever test comes first.
servers: dev
	@$(BIN)/python -c 'import sys; from controlplane.demo import binaries; binaries.find_etcd(lambda said: print(said, file=sys.stderr, flush=True))'

dev:
	@.ci/venv dev

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
