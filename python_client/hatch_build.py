"""Puts the license itself into the sdist, where hatchling would put the link that stands here."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class LicenseHook(BuildHookInterface[Any]):
    """The one license of the repository, for a wheel of the tree and for one of the sdist."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Have what is included by name read from where a link leads."""
        included = build_data["force_include"]
        build_data["force_include"] = {
            str(Path(source).resolve()): target for source, target in included.items()
        }
