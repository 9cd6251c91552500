"""`keylatch import`: the keys of another system, from a file."""
