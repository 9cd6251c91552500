"""`keylatch installation`: which installation a database holds, and a new id for a copy."""
