"""`keylatch adopt`: moves a plaintext column to hashes, in phases."""
