"""Tests of how keylatch gets into a project or a database: the package, install and migrate."""
