"""Tests of installing keylatch into a project or a database."""
