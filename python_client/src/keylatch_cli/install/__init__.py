"""`keylatch install`, `sql` and `apply`: install keylatch into a project or a database."""
