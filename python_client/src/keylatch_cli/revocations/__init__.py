"""`keylatch revocations`: exports ended keys, and ends them again in a restored database."""
