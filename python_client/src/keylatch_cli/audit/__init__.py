"""`keylatch audit`: tests who can do what in the database, and compares that with the rules."""
