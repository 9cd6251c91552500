"""What keylatch costs, measured: make bench WHAT=resolving, cache, sessions and so on."""
