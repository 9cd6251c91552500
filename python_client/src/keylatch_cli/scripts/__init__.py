"""`keylatch script`: prints the scripts for the owner of keylatch."""
