# EdgeSwarm: `make help` says what there is.  Every target sets up what it needs first; PYTHON=... chooses the interpreter.
.DEFAULT_GOAL := help
.PHONY: help setup setup-demo demo demo-device check test sim e2e bench soak kernels seccomp golden wheel bundle clean
MAKEFLAGS += --no-print-directory
export PYTHON
# Byte code is kept whatever the caller's environment says: without it each of the hundreds of processes that the tests
# start compiles the whole package again, a second each.
export PYTHONDONTWRITEBYTECODE :=
PY := .venv/bin/python
PYTEST := $(PY) -m pytest
ARGS ?=

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

setup: ## .venv with everything a developer needs (quick when up to date)
	@.ci/setup test

setup-demo:
	@.ci/setup demo

demo: setup-demo ## the main job: five devices on this machine, an agent network across them, broken on purpose
	@.venv/bin/edgeswarm demo $(ARGS)

demo-device: setup-demo ## one device: an agent network on this machine's own vitals, live, in jails
	@.venv/bin/edgeswarm demo --device $(ARGS)

check: setup ## ruff, mypy --strict, the import contract, the tidy test
	$(PY) -m ruff check .
	$(PY) -m mypy
	@.venv/bin/lint-imports --no-logo
	$(PYTEST) -q tests/repo/test_tidy.py

JOBS ?= 4
test: setup ## every test but soak and bench, JOBS=4 at a time: most of them wait most of the time
	$(PYTEST) -m "not soak and not bench" -n $(JOBS) --dist worksteal $(ARGS)

SEEDS ?= 200
FIRST_SEED ?= 1
sim: setup ## simulated cells: SEEDS=N FIRST_SEED=K; the last line says how many seeds passed and failed
	@$(PY) tests/sim/run.py --seeds $(SEEDS) --first $(FIRST_SEED) $(ARGS)

e2e: setup ## real processes and namespaces only
	$(PYTEST) -m e2e $(ARGS)

bench: setup ## every table of bench/
	@.ci/bench $(ARGS)

soak: setup ## the full counts that issues name; takes long
	$(PYTEST) -m soak $(ARGS)

kernels: setup ## regenerate the kernels' golden vectors in wasm_kernels/
	$(PY) tests/compile/write_golden.py $(ARGS)

seccomp: setup ## recompile the seccomp filters of sandbox/ (needs libseccomp2)
	$(PY) sandbox/build_filters.py $(ARGS)

golden: setup ## rewrite the golden files; read the diff before you commit it
	GOLDEN=rewrite $(PYTEST) -q -k golden $(ARGS)

audit: setup ## known vulnerabilities of the dependencies (pip-audit), and dist/sbom.json
	@.ci/audit

wheel: setup ## dist/edgeswarm-*.whl and the sdist
	$(PY) -m build --no-isolation --outdir dist .

ARCH ?= x86_64,aarch64
bundle: setup ## dist/edgeswarm-*-ARCH.tar.gz: installs without pip or network (ARCH=x86_64, aarch64 or both)
	@.ci/bundle ARCH=$(ARCH) $(ARGS)

clean: ## remove what was made, .venv included
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .benchmarks
