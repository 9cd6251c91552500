"""Reads the SQL files that come with the package."""

from __future__ import annotations

from importlib.resources import files


def sql_text(*path: str) -> str:
    """Read a file below `keylatch_cli/sql`, with the line ends of Unix."""
    text = files("keylatch_cli").joinpath("sql", *path).read_text(encoding="utf-8")
    return text.replace("\r\n", "\n")


def sql_texts(directory: str) -> dict[str, str]:
    """Read the SQL files of a directory of `keylatch_cli/sql`: the texts by name, sorted."""
    names = (one.name for one in files("keylatch_cli").joinpath("sql", directory).iterdir())
    return {name: sql_text(directory, name) for name in sorted(names) if name.endswith(".sql")}
