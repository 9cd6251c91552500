"""`keylatch revocations`: a list of what ended keys, and what a restored database forgot of it."""
