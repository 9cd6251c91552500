"""Tests of an installation in use: restores, upgrades and removal."""
