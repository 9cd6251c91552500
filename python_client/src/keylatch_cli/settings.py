"""Reads settings from the environment, or from a `.env` file in the current directory."""

from __future__ import annotations

import os
from functools import cache
from io import StringIO
from pathlib import Path

from .output import missing_extra

# The variables that an error may name.
_NAMED = ("DATABASE_URL", "KEYLATCH_", "SUPABASE_")


def setting(name: str) -> str | None:
    """Read a variable of the environment, or else of `.env` in the current directory.

    Args:
        name: The variable.

    Returns:
        The value, or `None` if the variable is not set or empty.

    Raises:
        KeylatchError: `missing_extra` if there is a `.env` and no library to read it.
    """
    return os.environ.get(name) or dotenv().get(name) or None


def source_of(value: str, option: str) -> str:
    """Name the source of a value, so that an error can say what to correct.

    Args:
        value: The value.
        option: The command-line option for this value.

    Returns:
        The variable of the environment or of `.env` with this value, or else the option.
    """
    known = {**dotenv(), **os.environ}
    return next(
        (name for name in known if name.startswith(_NAMED) and known[name] == value), option
    )


@cache
def dotenv() -> dict[str, str]:
    """Read `.env` in the current directory, once, because the file may be a pipe.

    Returns:
        The variables of the file; empty if there is no `.env`.

    Raises:
        KeylatchError: `missing_extra` if there is a file and no library to read it.
    """
    try:
        text = Path(".env").read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return {}
    try:
        from dotenv import dotenv_values
    except ImportError as problem:
        raise missing_extra("python-dotenv") from problem
    # No interpolation: a foreign file could copy a secret of the environment into its own address.
    # Nothing is written to the environment, because the environment is trusted more than the file.
    values = dotenv_values(stream=StringIO(text), interpolate=False)
    return {name: value for name, value in values.items() if value is not None}
