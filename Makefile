# What a developer runs; CI runs `make test`. Everything here calls a script that says what it does.

PYTHON := .venv/bin/python
STACK := PYTHONPATH=tests $(PYTHON) -m stack
MIGRATIONS := supabase/migrations/*.sql
# Where stack/tools.py keeps the servers from npm that are ready to run.
CACHE := $(if $(filter 0,$(shell id -u)),/var/cache,$(or $(XDG_CACHE_HOME),$(HOME)/.cache))/keylatch

# Tests wait as much as they compute.
WORKERS := $(shell expr $$(nproc) \* 3 / 2)

.DEFAULT_GOAL := help
.PHONY: $(shell awk -F: '/^[a-z0-9 -]+:.*\#\#/ { print $$1 }' $(MAKEFILE_LIST))

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z0-9 -]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what is missing (as root; else it prints the command that does)
	@tests/setup.sh

up: setup ## start a local stack that stays up, and print how to reach it (a .env)
	@$(STACK) up

down: ## end that stack
	@test ! -x $(PYTHON) || $(STACK) down

status: setup ## print how to reach that stack, or that it is down
	@$(STACK) status

demo: setup ## tell the story of a key; with DEMO_ARGS=--audit what an auditor sees then
	@$(PYTHON) tests/demo.py $(DEMO_ARGS)

bench: setup ## measure what resolving costs, beside the limit and other ways (about 10 minutes)
	@$(PYTHON) tests/bench.py $(BENCH_ARGS)

bench-cache: setup ## measure answers from memory, and how soon a revocation is heard (5 minutes)
	@$(PYTHON) tests/cache_bench.py $(BENCH_ARGS)

bench-identity: setup ## measure row policies that ask for the request's key (a minute)
	@$(PYTHON) tests/identity_bench.py $(BENCH_ARGS)

bench-sessions: setup ## measure sessions beside bare statements, and in a flood (two minutes)
	@$(PYTHON) tests/session_bench.py $(BENCH_ARGS)

bench-adoption: setup ## measure hashing the rows of a busy table, beside a bare update (a minute)
	@$(PYTHON) tests/adoption_bench.py $(BENCH_ARGS)

bench-import: setup ## import a million lines, and what memory that takes (two minutes)
	@$(PYTHON) tests/import_bench.py $(BENCH_ARGS)

soak: setup ## ten minutes of a cached resolver among changes and faults, and ten of failovers
	@$(PYTHON) tests/soak.py $(SOAK_ARGS)
	@$(PYTHON) tests/failovers/soak.py $(SOAK_ARGS)

bench-events: setup ## measure what the log of events costs, and kill the server in the middle (2 minutes)
	@$(PYTHON) tests/event_cost.py $(BENCH_ARGS)

audit: setup ## ask the stack that is up, or $DATABASE_URL, every question of sql/audit
	@$(PYTHON) tests/audit.py

reference: setup ## write sql/REFERENCE.md from the comments of the migrations
	@$(PYTHON) tests/reference.py

manifest: setup ## write what `keylatch doctor` and `keylatch audit` compare with
	@$(PYTHON) tests/manifest.py
	@$(PYTHON) tests/access.py

types: setup ## write supabase/types/keylatch.ts, the API as TypeScript types
	@$(PYTHON) tests/typescript.py

test: ## all checks, on PostgreSQL 15 (or the installed one), 17 and 18
	$(MAKE) --no-print-directory lint
	$(MAKE) --no-print-directory test-installed
	$(MAKE) --no-print-directory test-17
	$(MAKE) --no-print-directory test-18

test-installed: setup ## pgTAP and pytest on the installed PostgreSQL
	env -u KEYLATCH_PG $(MAKE) --no-print-directory test-sql test-python

test-17 test-18: test-%: setup ## the same on 17, and on 18, without what says the same on each
	KEYLATCH_PG=$* $(MAKE) --no-print-directory test-sql test-python PYTEST_ARGS='-m "not one_server"'

test-containers: setup ## the same on PostgreSQL in containers: KEYLATCH_IMAGE, or Supabase's, or one built here
	@tests/setup.sh --containers
	$(STACK) contained $(MAKE) --no-print-directory test-sql test-python PYTEST_ARGS='-m "not one_server"'

test-sql: setup ## pgTAP alone, on KEYLATCH_PG (15, 17, 18; the installed one)
	$(STACK) prove

test-python: setup ## pytest alone, on KEYLATCH_PG
	$(PYTHON) -m pytest -n $(WORKERS) $(PYTEST_ARGS) tests

lint: setup ## all that finds faults without running tests
	$(MAKE) --no-print-directory -j --output-sync=target lint-python lint-sql lint-database

lint-python: setup ## ruff and mypy
	.venv/bin/ruff check python_client tests
	.venv/bin/ruff format --check python_client tests
	cd python_client && ../.venv/bin/mypy
	cd tests && ../.venv/bin/mypy .

lint-sql: setup ## sqlfluff and squawk
	.venv/bin/sqlfluff lint --disable-progress-bar sql supabase
	.venv/bin/squawk $(MIGRATIONS)

lint-database: setup ## supabase db lint and db advisors, and what is made from the migrations
	$(STACK) lint
	$(PYTHON) tests/reference.py --check
	$(PYTHON) tests/manifest.py --check
	$(PYTHON) tests/typescript.py --check

mutations: setup ## take each guard of the database away, and see a test go red (13 minutes)
	@$(PYTHON) tests/mutations.py $(MUTATION_ARGS)

release: setup ## check, prove the upgrade, build and tag VERSION; nothing is published
	@$(PYTHON) tests/release.py $(VERSION)

clean: down ## end that stack, and remove all that setup and the tests made
	rm -rf .venv tests/node_modules tests/.stack .hypothesis tests/.hypothesis
	rm -rf $(CACHE)
	rm -rf .mypy_cache .pytest_cache .ruff_cache tests/.*_cache python_client/.*_cache
