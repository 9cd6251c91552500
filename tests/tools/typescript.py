"""Writes supabase/types/keylatch.ts, the API of a fresh install as TypeScript types.

`make generate` writes it, from the Supabase CLI's `gen types`; with --check it only says whether
the file in the tree is what it should be and the example page compiles with it, and exits with 1 if
not.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from stack.database import Database
from stack.server import Server
from stack.supabase import run_supabase
from stack.tools import ROOT, typescript

FILE = ROOT / "supabase" / "types" / "keylatch.ts"
PAGE = ROOT / "supabase" / "examples" / "widget"
HEAD = """// The API of keylatch as TypeScript types, made by `make generate`: do not edit.
// Your own project's are made by `supabase gen types --schema public --schema keylatch`.

"""


def types(url: str) -> str:
    """What the Supabase CLI generates, indented and with a line for each field."""
    printed = run_supabase(["gen", "types", "--lang", "typescript", "--schema", "keylatch"], url)
    _, found, body = printed.partition("export type Json")
    assert found, printed
    lines = []
    depth = 0
    for line in re.sub(r',(?=")', ",\n", f"{found}{body}").splitlines():
        text = line.strip()
        if not text and depth:
            continue
        closes_first = len(text) - len(text.lstrip("}])"))
        lines.append(f"{'  ' * (depth - closes_first)}{text}")
        depth += sum(text.count(c) for c in "{[(") - sum(text.count(c) for c in "}])")
    return HEAD + "\n".join(lines).strip() + "\n"


def compile_page(target: Path | None = None) -> str:
    """Check the types of the example page, and write its JavaScript if told where.

    Args:
        target: The directory for its folders as below `supabase`; nothing is written without it.

    Returns:
        What the compiler found; nothing if all is well.
    """
    output = ["--noEmit"] if target is None else ["--outDir", str(target)]
    result = subprocess.run(
        [typescript(), "--project", PAGE, *output], capture_output=True, text=True, check=False
    )
    return result.stdout if result.returncode else ""


def main(arguments: list[str]) -> int:
    """Make a fresh install, let the CLI describe it, and write or compare the file."""
    with Server() as server:
        database = Database(server, "types")
        database.migrate()
        text = types(database.url)
    if arguments != ["--check"]:
        FILE.parent.mkdir(exist_ok=True)
        FILE.write_text(text)
        return 0
    if FILE.read_text() != text:
        print("supabase/types/keylatch.ts is not what the migrations say; run: make generate")
        return 1
    found = compile_page()
    print(found, end="")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
