"""`keylatch doctor`: finds what is wrong with an installation, and what to run."""
