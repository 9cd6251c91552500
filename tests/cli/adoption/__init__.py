"""Tests of moving a plaintext column of keys to hashes, on databases without keylatch."""
