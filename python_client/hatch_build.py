"""Puts files into the sdist where hatchling would put the links that stand here."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_MODULES = "src/keylatch_cli/sql/modules.toml"


class LinkedFiles(BuildHookInterface[Any]):
    """The license and the list of modules, for a wheel of the tree and for one of the sdist."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Read what is included by name from where a link leads."""
        included = build_data["force_include"]
        included[_MODULES] = _MODULES
        build_data["force_include"] = {
            str(Path(source).resolve()): target for source, target in included.items()
        }
