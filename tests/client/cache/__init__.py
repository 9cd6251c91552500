"""Tests of the cached resolver: what it remembers, and that no answer is older than its bound."""
