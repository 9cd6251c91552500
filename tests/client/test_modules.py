"""The module of each call, and the error if the module is missing."""

import logging
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, cast
from uuid import uuid4

import httpx
import postgrest
import psycopg
import pytest

from keylatch import Keylatch
from keylatch.advice import CALLS_OF
from keylatch.cached import CachedResolver
from keylatch.errors import KeylatchError, NotInstalled
from stack import Database, Janitor, Rest, Tokens, migrations, module_names, until

pytestmark = pytest.mark.one_server

ID = uuid4()
MODULE_OF = {call: module for module, calls in CALLS_OF.items() for call in calls.split()}
# A call of every module's functions and views, by the name of the function or view.
CALLS: dict[str, Callable[[Keylatch], object]] = {
    "list_events": lambda kl: kl.events(ID),
    "seal_events": lambda kl: kl.seal_events(),
    "verify_events": lambda kl: kl.verify_events(),
    "record_usage": lambda kl: kl.record_usage([]),
    "key_usage": lambda kl: kl.usage(ID),
    "replay_position": lambda kl: kl.replay_position(),
    "wait_for_replicas": lambda kl: kl.wait_for_replicas(),
    "resolve_session": lambda kl: kl.resolve_session("token"),
    "close_session": lambda kl: kl.close_session("token"),
    "attach_subject": lambda kl: kl.attach_subject("token", subject="visitor"),
    "prune_sessions": lambda kl: kl.prune_sessions(),
    "end_sessions": lambda kl: kl.end_sessions(ID),
    "import_keys": lambda kl: kl.import_keys([]),
    "declare_scheme": lambda kl: kl.declare_scheme("old", recipe={"digest": "md5"}),
    "end_scheme": lambda kl: kl.end_scheme("old", ends_at=datetime(2099, 1, 1, tzinfo=UTC)),
    "finish_import": lambda kl: kl.finish_import("old", import_id=ID),
    "upgrade_key": lambda kl: kl.upgrade_key("key"),
    "legacy_keys": lambda kl: kl.legacy_keys(ID),
    "revoke_legacy_key": lambda kl: kl.revoke_legacy_key(ID),
}


class AskedFor(Exception):
    """The call reached the transport."""


class NamingTransport:
    """Raises an error with the name of the called function."""

    def call(self, function: str, _: object) -> Any:
        raise AskedFor(function)


def made_by(*modules: str) -> set[str]:
    """Return the functions and views in `keylatch` that the core and these modules create."""
    made: set[str] = set()
    for file in migrations(*modules):
        made.update(
            re.findall(
                r"^create (?:or replace )?(?:function|view) keylatch\.(\w+)",
                file.read_text(encoding="utf-8"),
                re.M,
            )
        )
    return made


def test_each_call_belongs_to_the_module_whose_migration_makes_it() -> None:
    core, names = made_by(), set(module_names())
    assert set(MODULE_OF.values()) == names - {"request"}, "request has no call of a client"
    for function, module in MODULE_OF.items():
        assert function in made_by(module) - core, f"{function} is not made by {module}"


def test_every_method_reaches_the_core_or_a_call_of_the_table() -> None:
    assert CALLS.keys() == MODULE_OF.keys()
    core = made_by()
    for function, call in CALLS.items():
        with pytest.raises(AskedFor, match=f"^{function}$"):
            call(Keylatch(cast(Any, NamingTransport())))
        assert function not in core
    reached: dict[str, Callable[[Keylatch], object]] = {
        "issue": lambda kl: kl.issue(ID),
        "issue_many": lambda kl: kl.issue_many(ID, labels=[]),
        "rotate": lambda kl: kl.rotate(ID),
        "revoke": lambda kl: kl.revoke(ID),
        "suspend": lambda kl: kl.suspend(ID),
        "unsuspend": lambda kl: kl.unsuspend(ID),
        "list": lambda kl: kl.list(ID),
        "show": lambda kl: kl.show(ID),
        "retire_workspace": lambda kl: kl.retire_workspace(ID),
        "resolve": lambda kl: kl.resolve("key"),
        "resolve_many": lambda kl: kl.resolve_many([]),
        "explain": lambda kl: kl.explain("key"),
        "installation": lambda kl: kl.installation(),
    }
    for call in reached.values():
        with pytest.raises(AskedFor) as caught:
            call(Keylatch(cast(Any, NamingTransport())))
        assert str(caught.value) in core
    methods = {name for name in vars(Keylatch) if not name.startswith(("_", "from_"))}
    assert len(methods) == len(reached) + len(CALLS)


def test_a_call_of_a_missing_module_names_the_module_and_the_command(
    core: Database, tokens: Tokens, janitor: Janitor
) -> None:
    with (
        Rest(core, tokens, janitor=janitor) as rest,
        httpx.Client() as session,
        psycopg.connect(core.authenticator_url) as connection,
    ):
        client = postgrest.SyncPostgrestClient(rest.rest_url, http_client=session)
        client.auth(tokens.token(role="service_role"))
        for kl in (
            Keylatch.from_postgrest(client),
            Keylatch.from_psycopg(connection, claims={"role": "service_role"}),
        ):
            assert kl.installation().modules == ()
            for function, call in CALLS.items():
                module = MODULE_OF[function]
                with pytest.raises(KeylatchError) as caught:
                    call(kl)
                error = caught.value
                assert type(error) is NotInstalled
                assert str(error) == (
                    f"not_installed: {function} belongs to the module {module}, which is not "
                    f"installed. (Run: keylatch install . --with {module} && supabase db push; "
                    f"on plain PostgreSQL: keylatch apply --with {module}. If the module is "
                    "installed, run in SQL: notify pgrst, 'reload schema')"
                )
                assert (error.__cause__, error.__context__) == (None, None)


def test_a_cache_without_the_module_notify_says_which_module_is_missing(
    core: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with psycopg.connect(core.authenticator_url, autocommit=True) as connection:
        kl = Keylatch.from_psycopg(connection, claims={"role": "keylatch_resolver"})
        with (
            caplog.at_level(logging.WARNING, "keylatch"),
            CachedResolver(kl, listen=core.url) as resolver,
        ):
            until(lambda: "keylatch apply --with notify" in caplog.text)
            assert resolver.resolve("not a key") is None
            assert resolver.stats().hits == 0


def test_a_revocation_that_cannot_wait_for_replicas_is_made_all_the_same(core: Database) -> None:
    with psycopg.connect(core.authenticator_url) as connection:
        kl = Keylatch.from_psycopg(connection, claims={"role": "service_role"})
        issued = kl.issue(ID, kind="secret")
        with pytest.raises(NotInstalled, match="wait_for_replicas belongs to the module notify"):
            kl.revoke(issued.id, wait_for_replicas=True)
        assert kl.show(issued.id).status == "revoked"
