"""What the environment says, and a `.env` in the current directory."""

from __future__ import annotations

import os
from functools import cache
from io import StringIO
from pathlib import Path

from .output import missing_extra

# The variables that an error may name.
_NAMED = ("DATABASE_URL", "KEYLATCH_", "SUPABASE_")


def setting(name: str) -> str | None:
    """Give a variable of the environment, else of `.env` in the current directory.

    Args:
        name: The variable.

    Returns:
        Its value, or `None` where it is not set or empty.

    Raises:
        KeylatchError: `missing_extra` where there is a `.env` and nothing to read it with.
    """
    return os.environ.get(name) or dotenv().get(name) or None


def source_of(value: str, option: str) -> str:
    """Name where a value comes from, so that an error can say what to correct.

    Args:
        value: The value.
        option: The option that gives it on the command line.

    Returns:
        The variable of the environment or of `.env` that has this value, else the option.
    """
    known = {**dotenv(), **os.environ}
    return next(
        (name for name in known if name.startswith(_NAMED) and known[name] == value), option
    )


@cache
def dotenv() -> dict[str, str]:
    """Read `.env` of the current directory, once: it may be a pipe.

    Returns:
        Its variables; none where there is no such file.

    Raises:
        KeylatchError: `missing_extra` where there is a file and nothing to read it with.
    """
    try:
        text = Path(".env").read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return {}
    try:
        from dotenv import dotenv_values
    except ImportError as problem:
        raise missing_extra("python-dotenv") from problem
    # Without interpolation: somebody else's file could put a secret of the environment into an
    # address of its own. And nothing is written to the environment, which is trusted more.
    values = dotenv_values(stream=StringIO(text), interpolate=False)
    return {name: value for name, value in values.items() if value is not None}
