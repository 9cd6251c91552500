"""Tests of the cached resolver: what it remembers, and that it is not wrong beyond its bound."""
