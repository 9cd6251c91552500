"""Writes sql/docs/restoring_ways.md from the ways to restore that the tests run.

`make generate` runs this program. With --check it writes nothing, and exits with 1 if the file in
the tree is out of date.
"""

from __future__ import annotations

import sys

from security.restoring.ways import table
from stack.tools import ROOT

FILE = ROOT / "sql" / "docs" / "restoring_ways.md"


def main(arguments: list[str]) -> int:
    """Write or compare the file."""
    if arguments == ["--check"]:
        if FILE.read_text() == table():
            return 0
        print("restoring_ways.md is not what the tests run; run: make generate")
        return 1
    FILE.write_text(table())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
