"""Writes supabase/types/keylatch.ts, the API of a fresh install as TypeScript types.

The Supabase CLI's `gen types` makes the file. This program adds facts that the CLI does not know:
which text is one of a few words, which argument may be null, and which field of a result is never
null.

`make generate` runs this program. With --check it writes nothing, and exits with 1 if the file in
the tree is out of date or the examples do not compile with the file.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from inspect import getdoc
from typing import Any

import psycopg

from keylatch import models
from stack.database import Database
from stack.server import Server
from stack.supabase import run_supabase
from stack.tools import ROOT
from tools.compiling import EXAMPLES, compile_project

FILE = ROOT / "supabase" / "types" / "keylatch.ts"
HEAD = """// The API of keylatch as TypeScript types, made by `make generate`: do not edit.
//
// Copy this file into your project. With supabase-js and your own generated types:
//   import type { Database as Keylatch } from "./keylatch.ts"
//   const client = createClient<Database & Keylatch>(url, key)
//   await client.schema("keylatch").rpc("issue_key", { workspace_id })

"""

CONSTRAINT = "select pg_get_constraintdef(oid) from pg_constraint where conname = %s"
VIEW = "select pg_get_viewdef(to_regclass(%s))"
BODY = "select prosrc from pg_proc where oid = to_regproc(%s)"
WORD = r"'(\w+)'"
CASE = r"(?:then|else)\s+'(\w+)'"

# Texts that are one of a few words: the type's name, the field, and the words' place.
WORDS = [
    ("Kind", "kind", CONSTRAINT, "keys_kind_check", WORD),
    ("Environment", "environment", CONSTRAINT, "keys_environment_check", WORD),
    ("Status", "keys.status", VIEW, "keylatch.keys", CASE),
    ("Status", "imported_keys.status", VIEW, "keylatch.keys", CASE),
    ("LegacyStatus", "legacy_keys.status", VIEW, "keylatch.legacy_keys", CASE),
    # Before its upgrade, legacy_keys shows the status of the key, but `waiting` for `active`.
    ("LegacyStatus", "legacy_keys.status", VIEW, "keylatch.keys", r"then\s+'(?!active)(\w+)'"),
    ("Verdict", "verdict", BODY, "keylatch_internal.key_form", CASE),
    # Words after `= ` or `when ` are compared there and are no verdicts; all other words are.
    ("Verdict", "verdict", BODY, "keylatch_internal.key_verdict", rf"(?<!= )(?<!when ){WORD}"),
    ("EventName", "event", BODY, "keylatch_internal.record_new_key", CASE),
    ("EventName", "event", BODY, "keylatch_internal.record_change", CASE),
    ("Outcome", "outcome", BODY, "keylatch_internal.report_import", rf"o\.outcome = {WORD}"),
    ("Role", "workspace_membership.role", CONSTRAINT, "workspace_membership_role_check", WORD),
]

FUNCTIONS = """
select proname, obj_description(oid, 'pg_proc'), coalesce(proargnames, '{}'), array(
  select pg_get_function_arg_default(p.oid, n) from generate_series(1, pronargs) as n
)
from pg_proc as p
where pronamespace = 'keylatch'::regnamespace
"""
RELATIONS = """
select relname, relkind = 'c', obj_description(reltype, 'pg_type'), array(
  select attname::text from pg_attribute where attrelid = c.oid and attnum > 0
)
from pg_class as c
where relnamespace = 'keylatch'::regnamespace and relkind in ('c', 'v', 'r')
"""
MODELS = [
    one for one in vars(models).values() if isinstance(one, type) and dataclasses.is_dataclass(one)
]
JSON_OBJECTS = {
    field.name
    for model in MODELS
    for field in dataclasses.fields(model)
    if str(field.type).startswith("Mapping")
}


class Facts:
    """Facts from the database and the Python client's models that the CLI does not know.

    Attributes:
        words: The words of each name in `WORDS`, in order.
        used: The names in `WORDS` that are the type of some field.
    """

    def __init__(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        """Read the facts from the database."""
        self.words: dict[str, dict[str, None]] = {}
        for name, _, query, argument, pattern in WORDS:
            (text,) = connection.execute(query, [argument]).fetchone() or (None,)
            found = re.findall(pattern, text or "", re.IGNORECASE)
            assert found, f"tools/typescript.py finds no words in {argument}: {text}"
            self.words[name] = self.words.get(name, {}) | dict.fromkeys(found)
        self.used: set[str] = set()
        self._functions = {name: about for name, *about in connection.execute(FUNCTIONS)}
        self._relations = {name: about for name, *about in connection.execute(RELATIONS)}
        self._nullable: set[tuple[str, str]] = set()

    def refine(self, section: str, owner: str, part: str, field: str, given: str) -> str:
        """Return the exact type of a field, from its place and the type that the CLI gave."""
        text, bar, _ = given.partition(" | null")
        if text == "never":
            return text
        if section != "Functions":
            if part not in ("Insert", "Update") and bar and self._may_be_null(owner, field):
                self._nullable.add((owner, field))
            null = bool(bar) and (owner, field) in self._nullable
        else:
            comment, names, defaults = self._functions[owner]
            if field == "Returns":
                # A single value may be null if the comment says so. A row of a type is never null.
                null = not text.startswith("Database[") and bool(re.search(r"\bnull\b", comment))
                return f"{text} | null" if null else text
            null = (dict(zip(names, defaults, strict=True))[field] or "").startswith("NULL")
            if text.endswith("[]") and re.search(rf"\b{field}: [^.;]*\bnull where", comment):
                text = f"({text.removesuffix('[]')} | null)[]"
        text = self._exact(owner, field, text)
        return f"{text} | null" if null else text

    def _exact(self, owner: str, field: str, text: str) -> str:
        for name, place, *_ in WORDS:
            if place in (field, f"{owner}.{field}"):
                assert text == "string", (owner, field, text)
                self.used.add(name)
                return name
        return "JsonObject" if field in JSON_OBJECTS and "Json" in text else text

    def _may_be_null(self, owner: str, field: str) -> bool:
        """Whether a field may be null; the catalog does not say that the field is never null."""
        is_type, comment, fields = self._relations[owner]
        if model := self._model(owner, fields):
            kinds = {each.name: str(each.type) for each in dataclasses.fields(model)}
            return kinds.get(field, "None").endswith("None")
        if not is_type:
            return True
        # A row of a batch: its position, and the fields of a single answer, which may be null.
        for other, (_, _, fewer) in self._relations.items():
            if set(fewer) < set(fields) and self._model(other, fewer):
                return field in fewer
        assert "null" not in comment, f"no model says which fields of {owner} are null: {comment}"
        return False

    def _model(self, owner: str, fields: list[str]) -> type | None:
        """The model of the client that names this relation or has the same fields."""
        found = [
            model
            for model in MODELS
            if {each.name for each in dataclasses.fields(model)} == set(fields)
            or re.search(rf"`(keylatch\.)?{owner}`", getdoc(model) or "")
        ]
        assert len(found) < 2, (owner, found)
        return found[0] if found else None


def types(database: Database) -> str:
    """The text of the file: the CLI's output with one line and the exact type for each field."""
    command = ["gen", "types", "--lang", "typescript", "--schema", "keylatch"]
    printed = run_supabase(command, database.url)
    parts = re.fullmatch(
        r".*?(export type Json.*?)(export type Database.*?)(type DatabaseWithoutInternals.*)",
        printed,
        re.DOTALL,
    )
    assert parts, printed
    facts = Facts(database.connect())
    body = _refined(_broken(parts[2]), facts)
    assert facts.used == set(facts.words), f"no field has {set(facts.words) - facts.used}"
    made = [parts[1].strip(), "export type JsonObject = { [key: string]: Json | undefined }"]
    for name, words in facts.words.items():
        made.append(f"export type {name} = " + " | ".join(f'"{word}"' for word in words))
    return HEAD + "\n\n".join(["\n".join(made), _indented(body), _indented(parts[3])]) + "\n"


def _broken(text: str) -> str:
    """Put each field on a line of its own, and name the row of a relation by its view."""
    row = r'Returns: \{[^}]*\}(\[\])?(?=\s*SetofOptions: \{\s*from: "\*"\s*to: "(\w+)")'
    for pattern, new in (
        (row, r'Returns: Database["keylatch"]["Views"]["\2"]["Row"]\1'),
        (r",(?=\s*\"|\n)", "\n"),
        (r"(?<=\":)\s*\{ Args", " {\nArgs"),
        (r"(?<=Args: \{) ", "\n"),
        (r" \}; Returns", "\n}\nReturns"),
        (r"; Returns", "\nReturns"),
        (r"\} \}", "}\n}"),
        (r"\},\{", "},\n{"),
        (r"\['(\w+)'\]", r'["\1"]'),
        (r"\(string\)\[\]", "string[]"),
        (r"\[\s+\]", "[]"),
    ):
        text = re.sub(pattern, new, text)
    return text


def _refined(text: str, facts: Facts) -> str:
    path: list[str] = []
    lines: list[str] = []
    for line in map(str.strip, text.splitlines()):
        refined = line
        if opened := re.fullmatch(r'(?:export type )?"?(\w*)"?(?::| =)? ?[\[{]', line):
            path.append(opened[1])
        elif re.match(r"[\]}]", line):
            path.pop()
        elif field := re.fullmatch(r'("(\w+)"\??|Returns): (.*)', line):
            _, _, section, owner, *part = path
            name = field[2] or field[1]
            exact = facts.refine(section, owner, (part or [owner])[0], name, field[3])
            refined = f"{field[1]}: {exact}"
        lines.append(refined)
    return "\n".join(lines)


def _indented(text: str) -> str:
    depth = 0
    lines: list[str] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        # An empty line separates two definitions, as in the CLI's output.
        if lines and not depth and re.match(r"(export )?(type|const) ", line):
            lines.append("")
        closes_first = len(line) - len(line.lstrip("}])"))
        lines.append(f"{'  ' * (depth - closes_first)}{line}")
        depth += sum(line.count(c) for c in "{[(") - sum(line.count(c) for c in "}])")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Make a fresh install, let the CLI describe it, and write or compare the file."""
    with Server() as server:
        database = Database(server, "types")
        database.migrate()
        text = types(database)
    if arguments != ["--check"]:
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
