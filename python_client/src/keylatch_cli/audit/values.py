"""The values that an audit writes. They are new and valid, so that only a guard can refuse them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import uuid4

from psycopg import sql

from .stage import Stage

# Values as SQL by column; other columns get a value by type.
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
# Columns that are only valid together with another column.
_BESIDE = {"revoked_by": "revoked_at", "revoke_reason": "revoked_at"}
# The columns that an insert into keys gives; the database makes the others.
_MINTED = ("workspace_id", "kind")


def new_value(
    column: str, kind: str, stage: Stage, *, is_membership: bool = False
) -> sql.Composable:
    """Return a value for a column, of its type.

    Args:
        column: The name of the column.
        kind: The type of the column, as `format_type` writes it.
        stage: The workspaces and user for columns that refer to them.
        is_membership: Whether the row makes a user a member of a workspace.
    """
    fixed = {
        "workspace_id": sql.Literal(stage.vacant if is_membership else stage.spare),
        "key_id": sql.Literal(uuid4()),
        "user_id": sql.Literal(stage.user),
    }
    text = _BY_COLUMN.get(column, _BY_TYPE.get(kind, "null"))
    # The same value in the statement, in the check after it, and for every actor.
    value = sql.Literal(uuid4()) if text == _BY_TYPE["uuid"] else sql.SQL(text)
    return sql.SQL("({})::" + kind).format(fixed.get(column, value))


def assignments(
    column: str, columns: Mapping[str, str], stage: Stage
) -> tuple[sql.Composed, sql.Composable]:
    """Return the assignments of an update, and the value that the column should then have."""
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
    """Return a row to insert: the required columns, and the workspace.

    Args:
        columns: The columns and their types.
        required: The columns that are not null and have no default; unknown for a view.
        stage: The stage whose spare workspace gets the row.
        is_minted: Whether the database fills the other columns of the row.
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
