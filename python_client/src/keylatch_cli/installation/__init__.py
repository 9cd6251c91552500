"""`keylatch installation`: shows the id of an installation, and gives a copy a new id."""
