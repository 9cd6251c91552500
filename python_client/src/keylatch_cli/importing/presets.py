"""Presets describe how other systems store keys. The folder `presets` has one file per system."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from keylatch.errors import KeylatchError

_FOLDER = files(__package__) / "presets"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """The column of the dump from which a field is read.

    Attributes:
        names: The possible columns. The first column with a value is used.
        before: The field is the part of the value before this text; empty for the whole value.
        after: The field is the part of the value after this text; empty for the whole value.
        inverted: The column means the opposite: `enabled` is false for a suspended key.
    """

    names: tuple[str, ...]
    before: str = ""
    after: str = ""
    inverted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A format of stored hashes, recognized by the first characters.

    Attributes:
        begins: The first characters of the stored text in this format.
        keep: Whether these characters are part of the hash.
        fields: The fields of the line: `alg` or `scheme`; empty for a key in plaintext.
        plaintext: Whether the stored text is the key itself, in plaintext.
    """

    begins: str = ""
    keep: bool = False
    plaintext: bool = False
    fields: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """Describes how a system stores its keys.

    Attributes:
        name: The value of `--from` for this system; empty for a file that needs no preset.
        system: The name of the system.
        table: The table to dump.
        presented: What a key of this system looks like, as its holder sends it.
        about: The source code or page that this description is based on.
        refused: Why keys of this system cannot be imported; empty if they can be imported.
        columns: The column of each field, by the name of the field. `owner` is the tenant.
        fixed: Fields with the same value in all lines.
        scheme: The name of the hash scheme; empty if the preset declares no scheme.
        recipe: The scheme's recipe, for `declare_scheme`.
        forms: The formats of the stored hash. The first format that matches is used.
    """

    name: str = ""
    system: str = ""
    table: str = ""
    presented: str = ""
    about: str = ""
    refused: str = ""
    columns: Mapping[str, Column] = field(default_factory=dict)
    fixed: Mapping[str, object] = field(default_factory=dict)
    scheme: str = ""
    recipe: Mapping[str, object] = field(default_factory=dict)
    forms: tuple[Form, ...] = ()


PLAIN = Preset()
"""The preset for a file whose columns have the names of the fields of `import_keys`."""


def names() -> list[str]:
    """Return the names of all presets, sorted."""
    return sorted(
        one.name.removesuffix(".toml") for one in _FOLDER.iterdir() if one.name.endswith(".toml")
    )


def load(name: str) -> Preset:
    """Read a preset.

    Args:
        name: The name of the preset, as in `names()`.

    Returns:
        The preset.

    Raises:
        KeylatchError: `usage` if no preset has this name.
    """
    if name not in names():
        raise KeylatchError(
            "usage",
            detail=f"there is no preset {name}",
            hint="List the presets: keylatch import --presets",
        )
    return _read(name, tomllib.loads((_FOLDER / f"{name}.toml").read_text("utf-8")))


def _read(name: str, given: dict[str, Any]) -> Preset:
    scheme = given.pop("scheme", {})
    fixed = given.pop("fixed", {})
    forms = given.pop("forms", [])
    scheme_name = scheme.pop("name", "")
    return Preset(
        name=name,
        columns={word: _column(one) for word, one in given.pop("columns", {}).items()},
        scheme=scheme_name,
        recipe=scheme,
        fixed=fixed | ({"scheme": scheme_name} if scheme_name and not forms else {}),
        forms=tuple(_form(one) for one in forms),
        **given,
    )


def _column(given: Any) -> Column:
    if isinstance(given, dict):
        return Column(
            names=(given["column"],),
            before=given.get("before", ""),
            after=given.get("after", ""),
        )
    names = [given] if isinstance(given, str) else given
    return Column(
        names=tuple(name.removeprefix("!") for name in names),
        inverted=names[0].startswith("!"),
    )


def _form(given: dict[str, Any]) -> Form:
    return Form(
        begins=given.pop("begins", ""),
        keep=given.pop("keep", False),
        plaintext=given.pop("plaintext", False),
        fields=given,
    )
