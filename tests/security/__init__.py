"""Attacks that must fail: through PostgREST with a real token, and in SQL with `set role`."""
