"""The values that an audit writes: new ones that are good, so that only a guard can refuse them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import uuid4

from psycopg import sql

from .stage import Stage

# By column, as SQL; of all others by type.
_BY_COLUMN = {
    "kind": "'secret'",
    "environment": "'test'",
    "role": "'member'",
    "scheme": "'sha256'",
    "allowed_origins": "'{https://other.example}'",
    "origin": "'https://other.example'",
    "verdict": "'unknown'",
    "expires_at": "pg_catalog.now() + interval '1 hour'",
    "superseded_at": "pg_catalog.now() - interval '1 hour'",
}
_BY_TYPE = {
    "uuid": "pg_catalog.gen_random_uuid()",
    "text": "'audit'",
    "boolean": "false",
    "bytea": "pg_catalog.sha256('audit')",
    "jsonb": "'{\"audit\": 1}'",
    "text[]": "'{audit}'",
    "timestamp with time zone": "pg_catalog.now() - interval '1 hour'",
    "date": "current_date - 1",
    "interval": "interval '1 hour'",
    "integer": "7",
    "bigint": "7",
}
# What only means something beside another column.
_BESIDE = {"revoked_by": "revoked_at", "revoke_reason": "revoked_at"}
# Of these the database makes all but the workspace and the kind.
_MINTED = ("workspace_id", "kind")


def new_value(
    column: str, kind: str, stage: Stage, *, is_membership: bool = False
) -> sql.Composable:
    """Give a value for a column, of its type.

    Args:
        column: Its name.
        kind: Its type, as `format_type` writes it.
        stage: Whose workspaces and user are meant where the column names one.
        is_membership: Whether the row makes a user a member of a workspace.
    """
    fixed = {
        "workspace_id": sql.Literal(stage.vacant if is_membership else stage.spare),
        "key_id": sql.Literal(uuid4()),
        "user_id": sql.Literal(stage.user),
    }
    text = _BY_COLUMN.get(column, _BY_TYPE.get(kind, "null"))
    # One value for the statement, for what is compared with it, and for every actor.
    value = sql.Literal(uuid4()) if text == _BY_TYPE["uuid"] else sql.SQL(text)
    return sql.SQL("({})::" + kind).format(fixed.get(column, value))


def assignments(
    column: str, columns: Mapping[str, str], stage: Stage
) -> tuple[sql.Composed, sql.Composable]:
    """Give what an update sets, and the value that the column should then have."""
    beside = _BESIDE.get(column)
    value = new_value(column, columns[column], stage, is_membership=_is_membership(columns))
    pairs = [(column, value)]
    if beside is not None and beside in columns:
        pairs.append((beside, new_value(beside, columns[beside], stage)))
    texts = [sql.SQL("{} = {}").format(sql.Identifier(name), one) for name, one in pairs]
    return sql.SQL(", ").join(texts), value


def row_of(
    columns: Mapping[str, str], required: Sequence[str], stage: Stage, *, is_minted: bool
) -> dict[str, sql.Composable]:
    """Give a row to insert: what must be given, and what says whose it is.

    Args:
        columns: The columns and their types.
        required: Those that are not null and have no default; of a view none are known.
        stage: Whose spare workspace it is for.
        is_minted: Whether the database makes the rest of the row.
    """
    if is_minted:
        names = [name for name in _MINTED if name in columns]
    else:
        names = list(dict.fromkeys([*required, *({"workspace_id"} & columns.keys())]))
    is_membership = _is_membership(columns)
    return {
        name: new_value(name, columns[name], stage, is_membership=is_membership) for name in names
    }


def _is_membership(columns: Mapping[str, str]) -> bool:
    return {"workspace_id", "user_id", "role"} <= columns.keys() and "key_id" not in columns
