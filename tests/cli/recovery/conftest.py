"""Fixtures that these tests share with the tests of installing."""

from cli.install.conftest import initialised, project

__all__ = ["initialised", "project"]
