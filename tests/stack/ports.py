"""Free ports on loopback."""

import socket


def free_port() -> int:
    """A port that nobody listened on a moment ago; who uses it must be ready to find it taken."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
