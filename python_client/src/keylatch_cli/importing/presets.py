"""How other systems keep their keys: a preset each, as data in the folder `presets`."""

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
    """Where a field of a line stands in the dump.

    Attributes:
        names: The columns that may have the field; the first one that is not empty counts.
        before: The field is what stands before this text; empty for all.
        after: The field is what stands after this text; empty for all.
        inverted: The column says the opposite, as `enabled` does of a suspended key.
    """

    names: tuple[str, ...]
    before: str = ""
    after: str = ""
    inverted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One of the forms that the stored hash has.

    Attributes:
        begins: What the stored text begins with.
        keep: Whether that beginning is part of the hash.
        fields: The fields of the line: `alg` or `scheme`; none for a key in plaintext.
        plaintext: Whether it is the key itself.
    """

    begins: str = ""
    keep: bool = False
    plaintext: bool = False
    fields: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """How a system keeps its keys.

    Attributes:
        name: What `--from` names it by; empty for a file whose columns are the fields.
        system: The system.
        table: The table to dump.
        presented: What a key looks like as its holder has it.
        about: Where this is known from.
        refused: Why keys of this system cannot be imported; empty if they can.
        columns: Where each field stands, by its name. `owner` names the tenant.
        fixed: Fields that all lines have.
        scheme: The name of the scheme; empty for none.
        recipe: The scheme, as `declare_scheme` takes it.
        forms: The forms of the stored hash, the first that fits counts.
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
"""A file whose columns are named as the fields of `import_keys`."""


def names() -> list[str]:
    """Give the names of all presets, sorted."""
    return sorted(
        one.name.removesuffix(".toml") for one in _FOLDER.iterdir() if one.name.endswith(".toml")
    )


def load(name: str) -> Preset:
    """Give a preset.

    Args:
        name: One of `names`.

    Returns:
        The preset.

    Raises:
        KeylatchError: `usage` where there is none of this name.
    """
    if name not in names():
        raise KeylatchError(
            "usage",
            detail=f"there is no preset {name}",
            hint="List them: keylatch import --presets",
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
