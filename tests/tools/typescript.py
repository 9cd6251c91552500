"""Writes supabase/types/keylatch.ts, the API of a fresh install as TypeScript types.

The Supabase CLI's `gen types` makes the file. This program adds what the CLI does not know: which
text is one of a few words, which argument may be null, and which field of a result never is.

`make generate` writes the file; with --check it only says whether the file in the tree is what it
should be and the examples compile with it, and exits with 1 if not.
"""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from collections.abc import Iterable
from inspect import getdoc
from pathlib import Path

import psycopg

from keylatch import models
from stack.database import Database
from stack.server import Server
from stack.supabase import run_supabase
from stack.tools import ROOT, typescript

FILE = ROOT / "supabase" / "types" / "keylatch.ts"
EXAMPLES = ROOT / "supabase" / "examples"
HEAD = """// The API of keylatch as TypeScript types, made by `make generate`: do not edit.
//
// Copy this file into your project. With supabase-js and your own generated types:
//   import type { Database as Keylatch } from "./keylatch"
//   const client = createClient<Database & Keylatch>(url, key)
//   await client.schema("keylatch").rpc("issue_key", { workspace_id })

"""

CONSTRAINT = "select pg_get_constraintdef(oid) from pg_constraint where conname = %s"
VIEW = "select pg_get_viewdef(oid) from pg_class where oid = to_regclass(%s)"
BODY = "select prosrc from pg_proc where oid = to_regproc(%s)"
CASE = r"(?:then|else)\s+'(\w+)'"


@dataclasses.dataclass(frozen=True)
class Words:
    """A text that is one of a few words.

    Attributes:
        fields: The fields that hold such a word: by name, or by relation and name.
        sources: The SQL that gives a text of the database, its argument, and what finds the words.
    """

    fields: tuple[str, ...]
    sources: tuple[tuple[str, str, str], ...]


WORDS = {
    "Kind": Words(("kind",), ((CONSTRAINT, "keys_kind_check", r"'(\w+)'"),)),
    "Environment": Words(("environment",), ((CONSTRAINT, "keys_environment_check", r"'(\w+)'"),)),
    "Status": Words(("keys.status",), ((VIEW, "keylatch.keys", CASE),)),
    "LegacyStatus": Words(("legacy_keys.status",), ((VIEW, "keylatch.legacy_keys", CASE),)),
    "Scheme": Words(("scheme",), ((CONSTRAINT, "legacy_keys_scheme_check", r"'(\w+)'"),)),
    "Verdict": Words(
        ("verdict",),
        (
            (BODY, "keylatch_internal.key_form", CASE),
            # What is compared is a status, a kind or a form; all other words are verdicts.
            (BODY, "keylatch_internal.key_verdict", r"(?<!= )(?<!when )'(\w+)'"),
        ),
    ),
    "EventName": Words(
        ("event",),
        (
            (BODY, "keylatch_internal.record_new_key", CASE),
            (BODY, "keylatch_internal.record_change", CASE),
        ),
    ),
    "Outcome": Words(
        ("outcome",), ((BODY, "keylatch_internal.take_import", r"o\.outcome = '(\w+)'"),)
    ),
    "Role": Words(
        ("workspace_membership.role",), ((CONSTRAINT, "workspace_membership_role_check", r"'(\w+)'"),)
    ),
}

ARGUMENTS = """
select p.proname, a.name, pg_get_function_arg_default(p.oid, a.place::integer),
  obj_description(p.oid, 'pg_proc')
from pg_proc as p
cross join lateral unnest(p.proargnames) with ordinality as a (name, place)
where p.pronamespace = 'keylatch'::regnamespace
"""
COMMENTS = """
select proname, obj_description(oid, 'pg_proc') from pg_proc
where pronamespace = 'keylatch'::regnamespace
"""
TYPES = """
select c.relname, c.relkind = 'c', obj_description(c.reltype, 'pg_type'), array_agg(a.attname::text)
from pg_class as c
inner join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0
where c.relnamespace = 'keylatch'::regnamespace and c.relkind in ('c', 'v', 'r')
group by c.oid
"""


class Facts:
    """What the database and the models of the Python client say, and the CLI does not."""

    def __init__(self, connection: psycopg.Connection[tuple[str, ...]]) -> None:
        """Ask for all of it."""
        self.words = {name: _words(connection, words) for name, words in WORDS.items()}
        self.arguments = {
            (function, name): (default, comment)
            for function, name, default, comment in connection.execute(ARGUMENTS)
        }
        self.comments: dict[str, str] = dict(connection.execute(COMMENTS))  # type: ignore[arg-type]
        self.types = {
            name: (is_composite, comment, frozenset(fields))
            for name, is_composite, comment, fields in connection.execute(TYPES)
        }
        self.nullable: dict[tuple[str, str], bool] = {}
        self.used: set[str] = set()

    def refine(self, path: list[str], field: str, optional: bool, type_: str) -> str:
        """Give the type of a field, from where it stands and the type that the CLI gave it."""
        if type_ in ("never", "Record<PropertyKey, never>"):
            return type_
        section, name = path[2], path[3]
        text, bar, _ = type_.partition(" | null")
        if section == "Functions" and field == "Returns":
            nothing = not text.startswith("Database[") and re.search(r"\bnull\b", self.comments[name])
            return f"{type_} | null" if nothing else type_
        if section == "Functions":
            return self._argument(name, field, optional, text)
        text = self._worded(name, field, text)
        part = path[-1]
        if part in ("Insert", "Update"):
            null = bool(bar) and self.nullable[name, field]
        else:
            null = bool(bar) and self._may_be_null(name, field)
            self.nullable[name, field] = null
        return f"{text} | null" if null else text

    def _argument(self, function: str, name: str, optional: bool, type_: str) -> str:
        default, comment = self.arguments[function, name]
        assert optional == (default is not None), (function, name)
        if type_.endswith("[]") and re.search(rf"\b{name}: [^.;]*\bnull where", comment):
            type_ = "(string | null)[]"
        text = self._worded(function, name, type_)
        return f"{text} | null" if (default or "").startswith("NULL") else text

    def _worded(self, owner: str, field: str, type_: str) -> str:
        for name, words in WORDS.items():
            if field in words.fields or f"{owner}.{field}" in words.fields:
                assert type_ == "string", (owner, field, type_)
                self.used.add(name)
                return name
        return type_

    def _may_be_null(self, owner: str, field: str) -> bool:
        """Whether a field may be null that the catalog cannot say it of."""
        is_composite, comment, fields = self.types[owner]
        model = self._model(owner, fields)
        if model is not None:
            type_ = {each.name: str(each.type) for each in dataclasses.fields(model)}.get(field)
            return type_ is None or type_.endswith("| None")
        if not is_composite:
            return True
        # A list has a place for each key, and beside it what a single answer has, or nulls.
        for other, (_, _, fewer) in self.types.items():
            if fewer < fields and self._model(other, fewer):
                return field in fewer
        assert "null" not in comment, f"which fields of {owner} are null? {comment}"
        return False

    def _model(self, owner: str, fields: Iterable[str]) -> type | None:
        """The model of the client that names this relation, or has the fields of this type."""
        found = [
            model
            for model in vars(models).values()
            if dataclasses.is_dataclass(model) and isinstance(model, type)
            if {each.name for each in dataclasses.fields(model)} == set(fields)
            or re.search(rf"`(keylatch\.)?{owner}`", getdoc(model) or "")
        ]
        assert len(found) < 2, (owner, found)
        return found[0] if found else None


def _words(connection: psycopg.Connection[tuple[str, ...]], words: Words) -> list[str]:
    found: dict[str, None] = {}
    for query, argument, pattern in words.sources:
        row = connection.execute(query, [argument]).fetchone()
        assert row, f"{argument} is not there; tools/typescript.py takes words from it"
        new = re.findall(pattern, row[0], re.IGNORECASE)
        assert new, f"{argument} has no words where tools/typescript.py looks for them: {row[0]}"
        found |= dict.fromkeys(new)
    return list(found)


def types(database: Database) -> str:
    """The file: what the CLI prints, indented, with a line and an exact type for each field."""
    command = ["gen", "types", "--lang", "typescript", "--schema", "keylatch"]
    printed = run_supabase(command, database.url)
    _, found, body = printed.partition("export type Json")
    assert found, printed
    body, found, helpers = body.partition("type DatabaseWithoutInternals")
    assert found, printed
    facts = Facts(database.connect())
    lines = _refined(_broken(f"export type Json{body}"), facts)
    assert facts.used == set(WORDS), f"no field has the words of {set(WORDS) - facts.used}"
    unions = [
        f"export type {name} = " + " | ".join(f'"{word}"' for word in words)
        for name, words in facts.words.items()
    ]
    rest = _indented(f"{found}{helpers}".splitlines())
    return HEAD + "\n".join([lines[0], "", *unions, *lines[1:], "", *rest]).strip() + "\n"


def _broken(text: str) -> list[str]:
    """A line for each field, and a name for what a row of a relation is."""
    row = r'Returns: \{[^}]*\}(\[\])?(?=\s*SetofOptions: \{\s*from: "\*"\s*to: "(\w+)")'
    text = re.sub(row, r'Returns: Database["keylatch"]["Views"]["\2"]["Row"]\1', text)
    for pattern, new in (
        (r",(?=\s*\"|\n)", "\n"),
        (r"(?<=\":)\s*\{ Args", " {\nArgs"),
        (r"(?<=Args: \{) ", "\n"),
        (r" \}; Returns", "\n}\nReturns"),
        (r"; Returns", "\nReturns"),
        (r"\} \}", "}\n}"),
        (r"\['(\w+)'\]", r'["\1"]'),
        (r"\(string\)\[\]", "string[]"),
        (r"\[\s+\]", "[]"),
    ):
        text = re.sub(pattern, new, text)
    return text.splitlines()


def _refined(lines: list[str], facts: Facts) -> list[str]:
    path: list[str] = []
    refined = []
    for line in lines:
        text = line.strip()
        if opened := re.fullmatch(r'(?:export type )?"?(\w*)"?(?::| =)? ?[\[{]', text):
            path.append(opened[1])
        elif re.match(r"[\]}]", text):
            path.pop()
        elif len(path) > 3 and path[-1] not in ("SetofOptions", "Relationships", ""):
            field = re.fullmatch(r'"?(\w+)"?(\?)?: (.*)', text)
            if field and field[1] not in ("ComputedFields", "Relationships", "Args"):
                exact = facts.refine(path, field[1], bool(field[2]), field[3])
                text = text.removesuffix(field[3]) + exact
        refined.append(text)
    return _indented(refined)


def _indented(lines: list[str]) -> list[str]:
    depth = 0
    indented = []
    for line in lines:
        text = line.strip()
        if not text and (depth or (indented and not indented[-1])):
            continue
        closes_first = len(text) - len(text.lstrip("}])"))
        indented.append(f"{'  ' * (depth - closes_first)}{text}".rstrip())
        depth += sum(text.count(c) for c in "{[(") - sum(text.count(c) for c in "}])")
    return indented


def compile_project(project: Path, target: Path | None = None) -> str:
    """Check the types of a project, and write its JavaScript if told where.

    Args:
        project: The directory of its tsconfig.json, or the file.
        target: The directory for its folders as below `supabase`; nothing is written without it.

    Returns:
        What the compiler found; nothing if all is well.
    """
    output = ["--noEmit"] if target is None else ["--outDir", str(target)]
    result = subprocess.run(
        [typescript(), "--project", project, *output], capture_output=True, text=True, check=False
    )
    return result.stdout if result.returncode else ""


def main(arguments: list[str]) -> int:
    """Make a fresh install, let the CLI describe it, and write or compare the file."""
    with Server() as server:
        database = Database(server, "types")
        database.migrate()
        text = types(database)
    if arguments != ["--check"]:
        FILE.parent.mkdir(exist_ok=True)
        FILE.write_text(text)
        return 0
    if FILE.read_text() != text:
        print("supabase/types/keylatch.ts is not what the migrations say; run: make generate")
        return 1
    found = compile_project(EXAMPLES)
    print(found, end="")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
