"""`keylatch audit`: tests which user can do what in the database, and names the differences."""
