# What a developer runs. Each target calls a program that says what it does; .ci/run calls `make test`.

PYTHON := .venv/bin/python
RUN := PYTHONPATH=tests $(PYTHON) -m
MAKE := $(MAKE) --no-print-directory
# Without Python's caches, each process compiles all tests and libraries again.
unexport PYTHONDONTWRITEBYTECODE
# Where stack/tools.py keeps the servers from npm that are ready to run.
CACHE := $(if $(filter 0,$(shell id -u)),/var/cache,$(or $(XDG_CACHE_HOME),$(HOME)/.cache))/keylatch
# Tests wait as much as they compute. Those of a file run in one worker, and share what they start.
WORKERS := $(shell expr $$(nproc) \* 3 / 2)

.DEFAULT_GOAL := help
.PHONY: help setup up down demo test test-pg test-containers lint generate bench soak mutations audit release clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z -]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what is missing (as root; else print the command that does)
	@tests/setup.sh

up: setup ## start a local stack that stays up, and print how to reach it (a .env)
	@$(RUN) stack up

down: ## stop that stack
	@test ! -x $(PYTHON) || $(RUN) stack down

demo: setup ## tell the story of a key; ARGS=--audit adds what an auditor sees
	@$(RUN) demo $(ARGS)

test: ## all checks, on PostgreSQL 15 (or the installed one), 17 and 18
	$(MAKE) lint
	$(MAKE) test-pg
	$(MAKE) test-pg PG=17
	$(MAKE) test-pg PG=18 TESTS="$(ON_18)"

# 18 runs what reads catalogs, takes locks or restores dumps; the rest says on 17 what it says on 18.
ON_18 := $(addprefix tests/,core modules security cli/install cli/recovery cli/doctor \
  cli/adoption cli/test_audit.py cli/test_audit_truth.py cli/test_audit_evidence.py \
  client/test_replicas.py client/cache/test_notices.py)
# A test marked one_server says the same on every PostgreSQL, and runs on the installed one alone;
# so do the client's tests of the core on a database that has nothing else.
MARKED := not one_server
CORE_TESTS := tests/client/test_calls.py tests/client/test_refusals.py
# What Supabase's image may answer otherwise than our own servers: who may do what there, what is
# installed and found whole, and one call of each kind. Races and latches are PostgreSQL's own.
IN_CONTAINERS := $(addprefix tests/,stack security cli/install cli/doctor cli/test_audit.py \
  client/test_calls.py modules/identity/test_policies.py \
  $(addprefix core/test_,alone.py budget.py core_files.py interleavings.py))
# Our own image runs the PostgreSQL that test-pg has tested. Only the container is new.
OURS = $(filter keylatch-postgres:%,$(KEYLATCH_IMAGE))
IN_OUR_CONTAINERS := $(addprefix tests/,stack cli/install client/test_calls.py \
  security/test_latch.py security/test_leaks.py)
SERVER := $(if $(PG),KEYLATCH_PG=$(PG),env -u KEYLATCH_PG)
PYTEST := $(PYTHON) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# Every Python that has these measures itself; tests/pyproject.toml says what.
COVERED := KEYLATCH_COVERAGE=$(CURDIR)/.coverage
MEASURED := COVERAGE_PROCESS_START=$(CURDIR)/tests/pyproject.toml $(COVERED)
TESTS := tests

test-pg: setup ## pgTAP and pytest on one PostgreSQL: PG=17, 18; COVERAGE=1
	$(SERVER) $(RUN) stack prove
	$(if $(COVERAGE),rm -rf .coverage && mkdir .coverage)
	$(SERVER) $(if $(COVERAGE),$(MEASURED)) $(PYTEST) $(if $(PG),-m "$(MARKED)") $(ARGS) $(TESTS)
	$(if $(PG),,$(SERVER) KEYLATCH_ONLY=core $(PYTEST) -m "$(MARKED)" $(CORE_TESTS))
	$(if $(COVERAGE),$(COVERED) $(PYTHON) -m coverage combine --quiet --rcfile=tests/pyproject.toml)
	$(if $(COVERAGE),$(COVERED) $(PYTHON) -m coverage report --rcfile=tests/pyproject.toml)

test-containers: setup ## the same in containers, of KEYLATCH_IMAGE or one built here
	@tests/setup.sh --containers
	$(RUN) stack contained $(MAKE) test-image

.PHONY: test-image
test-image:
	$(RUN) stack prove $(if $(OURS),--core supabase/tests/database/core/latch.test.sql)
	$(PYTEST) -m "$(MARKED)" $(ARGS) $(if $(OURS),$(IN_OUR_CONTAINERS),$(IN_CONTAINERS))

lint: setup ## find faults without running tests, and check the generated files
	$(MAKE) -j --output-sync=target lint-python lint-sql lint-database

.PHONY: lint-python lint-sql lint-database
lint-python:
	.venv/bin/ruff check python_client tests
	.venv/bin/ruff format --check python_client tests
	cd python_client && ../.venv/bin/mypy
	cd tests && ../.venv/bin/mypy .

lint-sql:
	.venv/bin/sqlfluff lint --disable-progress-bar --processes 0 sql supabase
	.venv/bin/squawk supabase/migrations/*.sql

lint-database:
	$(RUN) stack lint
	$(RUN) tools.reference --check
	$(RUN) tools.manifest --check
	$(RUN) tools.typescript --check
	$(RUN) tools.after_restore --check
	$(RUN) tools.restoring --check

generate: setup ## write the files that are made from the migrations
	@$(RUN) tools.manifest
	@$(RUN) tools.access
	@$(RUN) tools.reference
	@$(RUN) tools.typescript
	@$(RUN) tools.after_restore
	@$(RUN) tools.restoring

bench: setup ## measure WHAT, a file of tests/bench; by default resolving
	@$(RUN) bench.$(or $(WHAT),resolving) $(ARGS)

soak: setup ## ten minutes of a cached resolver among faults, and ten of failovers
	@$(RUN) bench.soak $(ARGS)
	@$(RUN) security.failovers.soak $(ARGS)

mutations: setup ## remove each guard, and see a test go red (30 minutes)
	@$(RUN) tools.mutations $(ARGS)

audit: setup ## ask the running stack, or $DATABASE_URL, every question of sql/audit
	@$(RUN) tools.audit

release: setup ## test, build and tag VERSION, with an SBOM; publish nothing
	@$(RUN) tools.release $(VERSION)

clean: down ## stop that stack, and remove all that setup and the tests made
	rm -rf .venv tests/node_modules tests/.stack .hypothesis tests/.hypothesis .coverage
	rm -rf $(CACHE)
	rm -rf .mypy_cache .pytest_cache .ruff_cache tests/.*_cache python_client/.*_cache
