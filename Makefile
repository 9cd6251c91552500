# What a developer runs. Each target calls a program that says what it does; .ci/run calls `make test`.

PYTHON := .venv/bin/python
RUN := PYTHONPATH=tests $(PYTHON) -m
MAKE := $(MAKE) --no-print-directory
# Where stack/tools.py keeps the servers from npm that are ready to run.
CACHE := $(if $(filter 0,$(shell id -u)),/var/cache,$(or $(XDG_CACHE_HOME),$(HOME)/.cache))/keylatch
# Tests wait as much as they compute.
WORKERS := $(shell expr $$(nproc) \* 3 / 2)

.DEFAULT_GOAL := help
.PHONY: help setup up down demo test test-pg test-containers lint generate bench mutations audit release clean

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
	$(MAKE) test-pg PG=18

# A test marked one_server says the same on every PostgreSQL, and runs on the installed one alone.
test-pg: setup ## pgTAP and pytest on the installed PostgreSQL, or on PG=17 or PG=18
	$(if $(PG),KEYLATCH_PG=$(PG),env -u KEYLATCH_PG) $(RUN) stack prove
	$(if $(PG),KEYLATCH_PG=$(PG),env -u KEYLATCH_PG) $(PYTHON) -m pytest -n $(WORKERS) $(if $(PG),-m "not one_server") $(ARGS) tests

test-containers: setup ## the same in containers: KEYLATCH_IMAGE, Supabase's image, or one built here
	@tests/setup.sh --containers
	$(RUN) stack contained $(MAKE) test-image

.PHONY: test-image
test-image:
	$(RUN) stack prove
	$(PYTHON) -m pytest -n $(WORKERS) -m "not one_server" $(ARGS) tests

lint: setup ## find faults without running tests, and check the generated files
	$(MAKE) -j --output-sync=target lint-python lint-sql lint-database

.PHONY: lint-python lint-sql lint-database
lint-python:
	.venv/bin/ruff check python_client tests
	.venv/bin/ruff format --check python_client tests
	cd python_client && ../.venv/bin/mypy
	cd tests && ../.venv/bin/mypy .

lint-sql:
	.venv/bin/sqlfluff lint --disable-progress-bar sql supabase
	.venv/bin/squawk supabase/migrations/*.sql

lint-database:
	$(RUN) stack lint
	$(RUN) tools.reference --check
	$(RUN) tools.manifest --check
	$(RUN) tools.typescript --check

generate: setup ## write what is made from the migrations: manifest, access, reference, types
	@$(RUN) tools.manifest
	@$(RUN) tools.access
	@$(RUN) tools.reference
	@$(RUN) tools.typescript

bench: setup ## measure: WHAT=resolving client cache identity sessions adoption imports events soak
	@$(RUN) bench.$(or $(WHAT),resolving) $(ARGS)

mutations: setup ## take each guard of the database away, and see a test go red (30 minutes)
	@$(RUN) tools.mutations $(ARGS)

audit: setup ## ask the running stack, or $DATABASE_URL, every question of sql/audit
	@$(RUN) tools.audit

release: setup ## check, prove the upgrade, build and tag VERSION; nothing is published
	@$(RUN) tools.release $(VERSION)

clean: down ## stop that stack, and remove all that setup and the tests made
	rm -rf .venv tests/node_modules tests/.stack .hypothesis tests/.hypothesis
	rm -rf $(CACHE)
	rm -rf .mypy_cache .pytest_cache .ruff_cache tests/.*_cache python_client/.*_cache
