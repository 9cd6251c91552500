"""`keylatch uninstall`: finds what still uses keylatch, and writes a migration that removes it."""
