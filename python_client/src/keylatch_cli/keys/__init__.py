"""`keylatch issue`, `list`, `rotate`, `revoke` and the other commands for admins."""
