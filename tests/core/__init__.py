"""The core: keys, origins, access, latch, calls and resolving."""
