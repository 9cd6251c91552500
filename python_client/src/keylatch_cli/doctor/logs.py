"""Finds server settings that write the arguments of calls, and so keys, into the log."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from .platform import Kind, kind_of
from .report import Finding, Level, Unchecked

_NAMES = (
    "auto_explain.log_min_duration",
    "auto_explain.log_parameter_max_length",
    "auto_explain.log_verbose",
    "log_min_duration_sample",
    "log_min_duration_statement",
    "log_parameter_max_length",
    "log_parameter_max_length_on_error",
    "log_statement",
    "log_statement_sample_rate",
    "log_transaction_sample_rate",
    "pgaudit.log",
    "pgaudit.log_parameter",
)
_SERVER = """
select s.name, s.setting, s.boot_val, s.source in ('user', 'database user')
from pg_catalog.pg_settings as s
where s.name = any(%s)
"""
# The same settings for a role, for this database, or for a role in this database.
_OVERRIDES = """
select d.datname, pg_catalog.quote_ident(r.rolname), c.setting
from pg_catalog.pg_db_role_setting as s
cross join pg_catalog.unnest(s.setconfig) as c (setting)
left join pg_catalog.pg_database as d on s.setdatabase = d.oid
left join pg_catalog.pg_roles as r on s.setrole = r.oid
where s.setrole <> 0
  and (s.setdatabase = 0 or d.datname = pg_catalog.current_database())
  and pg_catalog.split_part(c.setting, '=', 1) = any(%s)
order by 1, 2, 3
"""
_MAY_SET = """
select pg_catalog.bool_and(pg_catalog.has_parameter_privilege(name, 'set'))
from pg_catalog.unnest(%s::text[]) as name
"""
_MILLISECONDS = {"us": 0.001, "ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}


@dataclass(frozen=True, slots=True)
class _Leak:
    """A setting that logs keys.

    Attributes:
        level: How serious the leak is.
        what: What the setting does.
        fix: The setting and value that stop the leak.
        cause: The logging setting with the value that turns it off. The owner of a hosted project
            can set it.
    """

    level: Level
    what: str
    fix: str
    cause: str


def check(connection: psycopg.Connection[Any]) -> Iterator[Finding | Unchecked]:
    """Check whether keys end up in the server's log.

    Args:
        connection: Inside a transaction, as any user.

    Yields:
        A finding for the server, and a finding for each role with worse settings of its own.
    """
    with connection.cursor(row_factory=tuple_row) as cursor:
        server = cursor.execute(_SERVER, [list(_NAMES)]).fetchall()
        overrides = cursor.execute(_OVERRIDES, [list(_NAMES)]).fetchall()
    # Settings of the connected role say nothing about other roles.
    values = {name: default if is_own else value for name, value, default, is_own in server}
    if own := sorted(name for name, _, _, is_own in server if is_own):
        yield Unchecked(
            f"what the server logs by {', '.join(own)}",
            "this role has its own logging settings; connect as another role",
        )
    everywhere = set(_leaks(values))
    yield from _findings("server log", "alter database {database} set", everywhere, connection)

    scopes: dict[str, dict[str, str]] = {}
    for database, role, setting in overrides:
        name, _, value = setting.partition("=")
        place = f"{role} in database {connection.info.dbname}" if database else role
        scopes.setdefault(place, {})[name] = value
    for place, changed in scopes.items():
        leaks = set(_leaks(values | changed)) - everywhere
        yield from _findings(
            f"server log, role {place}", f"alter role {place} set", leaks, connection
        )


def _findings(
    subject: str, alter: str, leaks: set[_Leak], connection: psycopg.Connection[Any]
) -> Iterator[Finding]:
    if not leaks:
        return
    is_warning = any(one.level is Level.WARNING for one in leaks)
    how = alter.format(database=connection.info.dbname)
    settings = sorted({one.fix for one in leaks})
    remark = "  -- run as a superuser"
    if kind_of(connection) is Kind.SUPABASE and not _may_set(connection, settings):
        settings = sorted({one.cause for one in leaks})
        remark = "\n-- A hosted project cannot set log_parameter_max_length; log fewer statements."
    yield Finding(
        Level.WARNING if is_warning else Level.NOTE,
        "keys_logged",
        subject,
        "; ".join(sorted(one.what for one in leaks)),
        "Everyone who can read the log or a copy of it can read the presented keys.",
        "\n".join(f"{how} {one};" for one in settings) + remark,
    )


def _may_set(connection: psycopg.Connection[Any], settings: list[str]) -> bool:
    names = [one.partition(" ")[0] for one in settings]
    with connection.cursor(row_factory=tuple_row) as cursor:
        ((allowed,),) = cursor.execute(_MAY_SET, [names]).fetchall()
    return bool(allowed)


def _leaks(values: Mapping[str, str]) -> Iterator[_Leak]:
    if values.get("log_parameter_max_length_on_error", "0") != "0":
        yield _Leak(
            Level.WARNING,
            "the arguments of failed calls are logged",
            "log_parameter_max_length_on_error = 0",
            "log_parameter_max_length_on_error = 0",
        )
    if values.get("log_parameter_max_length") != "0":
        fix = "log_parameter_max_length = 0"
        if values.get("log_statement") == "all":
            yield _Leak(
                Level.WARNING, "log_statement = all logs every call", fix, "log_statement = none"
            )
        if float(values.get("log_transaction_sample_rate", 0)) > 0:
            cause = "log_transaction_sample_rate = 0"
            yield _Leak(Level.WARNING, "log_transaction_sample_rate logs some calls", fix, cause)
        yield from _slow(values, "log_min_duration_statement", fix)
        if float(values.get("log_statement_sample_rate", 0)) > 0:
            yield from _slow(values, "log_min_duration_sample", fix)
    # Before PostgreSQL 16, auto_explain logs no parameters, but a verbose plan shows them.
    if _is_on(values.get("auto_explain.log_verbose")):
        yield from _slow(values, "auto_explain.log_min_duration", "auto_explain.log_verbose = off")
    if values.get("auto_explain.log_parameter_max_length", "0") != "0":
        yield from _slow(
            values,
            "auto_explain.log_min_duration",
            "auto_explain.log_parameter_max_length = 0",
        )
    if values.get("pgaudit.log", "none") not in ("", "none") and _is_on(
        values.get("pgaudit.log_parameter")
    ):
        yield _Leak(
            Level.WARNING,
            "pgaudit.log_parameter logs calls",
            "pgaudit.log_parameter = off",
            "pgaudit.log_parameter = off",
        )


def _slow(values: Mapping[str, str], name: str, fix: str) -> Iterator[_Leak]:
    milliseconds = _milliseconds(values.get(name, "-1"))
    cause = f"{name} = -1"
    if milliseconds == 0:
        yield _Leak(Level.WARNING, f"{name} = 0 logs every call", fix, cause)
    elif milliseconds > 0:
        seconds = f"{milliseconds / 1000:g} s"
        yield _Leak(Level.NOTE, f"{name} logs a call that takes longer than {seconds}", fix, cause)


def _milliseconds(text: str) -> float:
    match = re.fullmatch(r"\s*(-?[0-9.]+)\s*([a-z]*)\s*", text)
    return float(match[1]) * _MILLISECONDS.get(match[2], 1) if match else -1


def _is_on(text: str | None) -> bool:
    return (text or "").lower() in ("on", "true", "yes", "1")
