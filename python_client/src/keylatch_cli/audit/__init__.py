"""`keylatch audit`: who can do what, tried against the database, beside what is expected."""
