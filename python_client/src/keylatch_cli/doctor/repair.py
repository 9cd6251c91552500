"""Writes the SQL that changes an object back to the released version."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from ..install import migrations
from .catalog import Entry

# Every statement of the migrations begins and ends a line.
_STATEMENTS = {
    "function": r"^create (?:or replace )?function {}\(.*?^(?:end )?\$\$;$",
    "view": r"^create view {} .*?;$",
}
_FIRES = {"always": "enable always", "origin": "enable", "replica": "enable replica"}
ALTERABLE = ("volatility", "security", "parallel", "null input", "leakproof")
"""Properties whose value can be passed to `alter function`."""


def restore(shipped: Entry, part: str, changed: Sequence[str] | None = None) -> str:
    """Return the SQL that creates an object again, or changes it back.

    Args:
        shipped: The object as it should be.
        part: The part that creates it.
        changed: The properties of its definition that differ; `None` if the object is missing.

    Returns:
        SQL; or an SQL comment with instructions, if dependent objects must be created again too.
    """
    altered = _alter(shipped, changed) if changed else None
    if altered is not None:
        return altered
    if changed and not {"arguments", "result"} & set(changed):
        replaced = _statement(shipped, part)
        if replaced is not None:
            return re.sub(r"^create (or replace )?", "create or replace ", replaced)
    again = _create(shipped, part)
    if again is None:
        return (
            f"-- run the statements for {shipped.kind} {shipped.name} from the output of\n"
            "-- keylatch sql --all --tenancy keylatch"
        )
    lines = [drop(shipped), again] if changed else [again]
    return "\n".join([*lines, comment(shipped)] if shipped.comment else lines)


def drop(entry: Entry) -> str:
    """Return the SQL that drops an object which is not part of keylatch, or moves it to `public`.

    Args:
        entry: The object.

    Returns:
        SQL.
    """
    name = _own_name(entry)
    if entry.kind == "constraint":
        return f"alter table {entry.relation} drop constraint {name};"
    if entry.kind == "column":
        return f"alter table {entry.relation} drop column {name};  -- deletes its data"
    if entry.relation is None and entry.kind not in ("function", "procedure", "aggregate"):
        return f"alter {entry.kind} {entry.name} set schema public;  -- or drop it"
    return f"drop {entry.kind} {entry.name};"


def regrant(entries: Sequence[Entry], lines: Iterable[str], owner: str, *, take: bool) -> str:
    """Return the SQL that grants or revokes privileges.

    Args:
        entries: An object, or columns of one relation.
        lines: What to grant or revoke: `authenticated: select with grant option`.
        owner: The name of the owner.
        take: Whether to revoke.

    Returns:
        SQL, a line for each role.
    """
    by_role: dict[tuple[str, bool], list[str]] = defaultdict(list)
    for line in sorted(lines):
        role, _, privilege = line.partition(": ")
        granting = privilege.endswith(" with grant option")
        role = owner if role == "the owner" else role
        by_role[role, granting].append(privilege.removesuffix(" with grant option"))
    first, columns = entries[0], ""
    if first.kind == "column":
        columns = f" ({', '.join(map(_own_name, entries))})"
        noun = f"table {first.relation}"
    elif first.kind in ("view", "materialized view", "foreign table"):
        noun = f"table {first.name}"
    else:
        noun = f"{first.kind} {first.name}"
    return "\n".join(
        f"revoke {_with(privileges, columns)} on {noun} from {role} cascade;"
        if take
        else f"grant {_with(privileges, columns)} on {noun} to {role}"
        f"{' with grant option' if granting else ''};"
        for (role, granting), privileges in by_role.items()
    )


def comment(entry: Entry) -> str:
    """Return the SQL that restores a comment.

    Args:
        entry: The object as it should be.

    Returns:
        SQL.
    """
    return f"comment on {entry.kind} {entry.name} is {_literal(entry.comment)};"


def own(entry: Entry, owner: str) -> str:
    """Return the SQL that changes the owner of an object.

    Args:
        entry: The object.
        owner: The role.

    Returns:
        SQL.
    """
    return f"alter {entry.kind} {entry.name} owner to {owner};"


def _alter(shipped: Entry, changed: Sequence[str]) -> str | None:
    """Change an object back with `alter`, if possible."""
    definition, lines = shipped.definition, []
    for one in changed:
        if shipped.kind == "trigger" and one == "fires":
            how = _FIRES[definition["fires"]]
            lines.append(f"alter table {shipped.relation} {how} trigger {_own_name(shipped)};")
        elif shipped.kind == "function" and one in ALTERABLE:
            lines.append(f"alter function {shipped.name} {definition[one]};")
        elif shipped.kind == "function" and one == "settings":
            lines.append(f"alter function {shipped.name} reset all;")
            for setting in definition["settings"]:
                name, _, value = setting.partition("=")
                # search_path is stored as valid SQL, except for the empty list.
                is_list = name == "search_path" and value != '""'
                text = value if is_list else "''" if value == '""' else _literal(value)
                lines.append(f"alter function {shipped.name} set {name} = {text};")
        elif shipped.kind == "table" and one in ("row level security", "forced row level security"):
            on, off = ("force", "no force") if "forced" in one else ("enable", "disable")
            how = on if definition[one] else off
            lines.append(f"alter table {shipped.name} {how} row level security;")
        elif shipped.kind == "table" and one == "logged":
            lines.append(f"alter table {shipped.name} set logged;")
        elif shipped.kind == "table" and one == "limited statistics":
            lines.append(f"select keylatch_internal.expose_table('{shipped.name}');")
            kept = f"pg_catalog.pg_statistic where starelid = '{shipped.name}'::regclass"
            lines.append(f"delete from {kept};  -- as a superuser")  # noqa: S608
        elif shipped.kind == "view" and one == "options":
            lines.append(f"alter view {shipped.name} set ({', '.join(definition['options'])});")
        elif shipped.kind == "column" and one == "default":
            how = f"set default {definition[one]}" if definition[one] else "drop default"
            lines.append(_alter_column(shipped, how))
        elif shipped.kind == "column" and one == "not null":
            lines.append(
                _alter_column(shipped, "set not null" if definition[one] else "drop not null")
            )
        else:
            return None
    return "\n".join(lines)


def _statement(shipped: Entry, part: str) -> str | None:
    """Find the statement that creates an object in the SQL of its part."""
    if shipped.kind not in _STATEMENTS:
        return None
    text = migrations.shipped().parts[part].text
    name = re.escape(shipped.name.partition("(")[0])
    match = re.search(_STATEMENTS[shipped.kind].format(name), text, re.DOTALL | re.MULTILINE)
    return match[0] if match else None


def _create(shipped: Entry, part: str) -> str | None:
    definition, name = shipped.definition, _own_name(shipped)
    if shipped.kind == "function":
        again = _statement(shipped, part)
        # A new function is executable by its owner and by everyone.
        grants = [one for one in shipped.grants if not one.startswith("the owner: ")]
        taken = f"revoke all on function {shipped.name} from public;"
        return again and "\n".join([again, taken, regrant([shipped], grants, "", take=False)])
    if shipped.kind == "constraint":
        return f"alter table {shipped.relation} add constraint {name} {definition['definition']};"
    if shipped.kind == "index":
        return f"{definition['definition']};"
    if shipped.kind == "trigger":
        lines = [f"{definition['definition']};"]
        if definition["fires"] != "origin":
            how = _FIRES[definition["fires"]]
            lines.append(f"alter table {shipped.relation} {how} trigger {name};")
        return "\n".join(lines)
    if shipped.kind == "policy":
        parts = [
            f"create policy {shipped.name}",
            "" if definition["permissive"] else "as restrictive",
            f"for {definition['command']}",
            f"to {', '.join(definition['roles'])}",
            f"using ({definition['using']})" if definition["using"] else "",
            f"with check ({definition['with check']})" if definition["with check"] else "",
        ]
        return " ".join(filter(None, parts)) + ";"
    return None


def _alter_column(column: Entry, how: str) -> str:
    return f"alter table {column.relation} alter column {_own_name(column)} {how};"


def _own_name(entry: Entry) -> str:
    """Return the name without the relation, quoted if SQL needs that."""
    if entry.kind == "column":
        return entry.name.removeprefix(f"{entry.relation}.")
    return entry.name.removesuffix(f" on {entry.relation}")


def _with(privileges: Iterable[str], columns: str) -> str:
    return ", ".join(privilege + columns for privilege in privileges)


def _literal(value: str | None) -> str:
    return "null" if value is None else "'" + value.replace("'", "''") + "'"
