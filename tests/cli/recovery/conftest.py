"""What these tests share with the tests of installing: a project, and the program."""

from cli.install.conftest import initialised, project

__all__ = ["initialised", "project"]
