"""The command line `keylatch`; needs the extra `keylatch[cli]`."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import NoReturn


def main() -> NoReturn:
    """Run the command that the process was started with, and end with its exit code."""
    # Said here in words of our own: without typer and rich nothing else of this package loads.
    if missing := [name for name in ("typer", "rich") if find_spec(name) is None]:
        print(  # noqa: T201
            f"missing_extra: {' and '.join(missing)} not installed, which the command line needs\n"
            'hint: Run: pip install "keylatch[cli]"',
            file=sys.stderr,
        )
        sys.exit(5)
    try:
        from .app import run

        sys.exit(run())
    except KeyboardInterrupt:
        # Typer answers Ctrl-C only while a command runs, not before and after it.
        sys.exit(130)
