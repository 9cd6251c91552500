"""`keylatch adopt`: the move of a plaintext column to hashes, in phases."""
