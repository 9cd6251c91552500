"""`Keylatch`: the blocking client."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from . import calls
from .base import Client, as_method
from .transports import Transport, finish

if TYPE_CHECKING:
    import psycopg
    import supabase
    from postgrest import SyncPostgrestClient
    from psycopg_pool import ConnectionPool
    from sqlalchemy import Connection, Engine
    from sqlalchemy.orm import Session, scoped_session

    _Base = Client[
        Transport,
        supabase.Client,
        SyncPostgrestClient,
        psycopg.Connection[Any] | ConnectionPool[Any],
        Engine | Connection | Session | scoped_session[Any],
        Engine,
    ]
else:
    _Base = Client

P = ParamSpec("P")
T = TypeVar("T")


def blocking(describe: Callable[P, calls.Call[T]]) -> Callable[Concatenate[Keylatch, P], T]:
    """Build the client method for a call: it waits for the answer."""

    @wraps(describe)
    def method(self: Keylatch, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return finish(self._answer(describe(*args, **kwargs)))

    as_method(describe, method)
    return method


class Keylatch(_Base):
    """A client for the keys of a database, over a connection that the caller opens and closes.

    Every call can raise `InvalidArgument` (a value breaks a rule; `detail` names it),
    `KeyNotFound` or `SessionNotFound` (no such id or token that the caller may see),
    `KeyNotUsable` (the call needs an active key; `reason` says why it is not active),
    `PermissionDenied` (the row policies or grants refuse), `Unavailable` (nothing answers), and
    `SchemaNotExposed` or `NotInstalled` (the setup is not complete). All are `KeylatchError`.
    Each method lists what else it raises.
    """

    _is_async = False

    issue = blocking(calls.issue)
    issue_many = blocking(calls.issue_many)
    rotate = blocking(calls.rotate)
    revoke = blocking(calls.revoke)
    suspend = blocking(calls.suspend)
    unsuspend = blocking(calls.unsuspend)
    list = blocking(calls.list_keys)
    show = blocking(calls.show)
    retire_workspace = blocking(calls.retire_workspace)
    resolve = blocking(calls.resolve)
    resolve_many = blocking(calls.resolve_many)
    explain = blocking(calls.explain)
    installation = blocking(calls.installation)
    events = blocking(calls.events)
    seal_events = blocking(calls.seal_events)
    verify_events = blocking(calls.verify_events)
    record_usage = blocking(calls.record_usage)
    usage = blocking(calls.usage)
    replay_position = blocking(calls.replay_position)
    wait_for_replicas = blocking(calls.wait_for_replicas)
    resolve_session = blocking(calls.resolve_session)
    close_session = blocking(calls.close_session)
    attach_subject = blocking(calls.attach_subject)
    prune_sessions = blocking(calls.prune_sessions)
    end_sessions = blocking(calls.end_sessions)
    import_keys = blocking(calls.import_keys)
    declare_scheme = blocking(calls.declare_scheme)
    end_scheme = blocking(calls.end_scheme)
    finish_import = blocking(calls.finish_import)
    upgrade_key = blocking(calls.upgrade_key)
    legacy_keys = blocking(calls.legacy_keys)
    revoke_legacy_key = blocking(calls.revoke_legacy_key)
