"""Every way of restoring a database with keylatch, and what each way loses."""
