"""`keylatch uninstall`: what still uses keylatch, and the migration that removes it."""
