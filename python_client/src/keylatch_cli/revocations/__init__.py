"""`keylatch revocations`: exports revoked keys, and revokes them again in a restored database."""
