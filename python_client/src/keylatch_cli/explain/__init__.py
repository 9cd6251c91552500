"""`keylatch resolve`, `upgrade` and `explain`: the commands for a presented key."""
