"""Removes containers and networks of a Docker engine when it receives SIGTERM.

`remover.py CONTAINER NETWORK` removes these two. `remover.py` without arguments removes everything
in the engine. The janitor sends the SIGTERM, even after `kill -9` of the run.
"""

import contextlib
import signal
import sys
import time

# This line stands before the slow imports: an early SIGTERM must not end the program.
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])

import docker  # noqa: E402

_OWN = ("bridge", "host", "none")  # the engine's own networks
_PATIENCE = 8.0  # less than the janitor's


def _remove(container: str, network: str) -> None:
    client = docker.from_env()
    with contextlib.suppress(docker.errors.NotFound):
        client.containers.get(container).remove(force=True, v=True)
    with contextlib.suppress(docker.errors.NotFound):
        client.networks.get(network).remove()


def _remove_all() -> None:
    client = docker.from_env()
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        containers = client.containers.list(all=True, ignore_removed=True)
        networks = [network for network in client.networks.list() if network.name not in _OWN]
        if not containers and not networks:
            return
        # Another remover may be removing the same containers and networks.
        for container in containers:
            with contextlib.suppress(docker.errors.APIError):
                container.remove(force=True, v=True)
        for network in networks:
            with contextlib.suppress(docker.errors.APIError):
                network.remove()
        time.sleep(0.02)


if __name__ == "__main__":
    signal.sigwait([signal.SIGTERM])
    if sys.argv[1:]:
        _remove(*sys.argv[1:])
    else:
        _remove_all()
