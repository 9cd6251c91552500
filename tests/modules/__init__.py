"""Tests of the modules that need several sessions, HTTP, or a browser."""
