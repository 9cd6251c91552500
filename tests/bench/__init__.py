"""Benchmarks of keylatch: make bench WHAT=resolving, cache, sessions and so on."""
