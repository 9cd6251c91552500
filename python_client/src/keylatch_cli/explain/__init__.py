"""`keylatch resolve`, `upgrade` and `explain`: what becomes of a key that is presented."""
