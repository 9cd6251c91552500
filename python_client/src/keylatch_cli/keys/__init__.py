"""`keylatch issue`, `list`, `rotate`, `revoke` and the other commands of an admin."""
