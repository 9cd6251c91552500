"""The command line `keylatch`; needs the extra `keylatch[cli]`."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import NoReturn


def main() -> NoReturn:
    """Run the command on the command line, and exit with its exit code."""
    # Checked here, because no other module of this package loads without typer and rich.
    if missing := [name for name in ("typer", "rich") if find_spec(name) is None]:
        print(  # noqa: T201
            f"missing_extra: {' and '.join(missing)} not installed, but the command line needs it\n"
            'hint: Run: pip install "keylatch[cli]"',
            file=sys.stderr,
        )
        sys.exit(5)
    try:
        from .app import run

        sys.exit(run())
    except KeyboardInterrupt:
        # Typer handles Ctrl-C only while a command runs.
        sys.exit(130)
