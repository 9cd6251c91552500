"""`keylatch install`, `sql` and `apply`: one file for a project, or a database without one."""
