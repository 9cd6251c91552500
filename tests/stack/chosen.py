"""The server that the environment chooses: a local server, or a container."""

import os
from collections.abc import Mapping

from stack.cluster import Cluster
from stack.janitor import Janitor
from stack.server import Server


def chosen_image() -> str | None:
    """The image that `KEYLATCH_IMAGE` names, or None if the servers are local."""
    return os.environ.get("KEYLATCH_IMAGE") or None


def chosen_cluster(
    *, settings: Mapping[str, str] | None = None, janitor: Janitor | None = None
) -> Cluster:
    """Start a container of the image in `KEYLATCH_IMAGE`, else a local server of `KEYLATCH_PG`.

    Args:
        settings: Settings of PostgreSQL that override or extend ours.
        janitor: The janitor that ends the server with the run; by default a new one.
    """
    if (image := chosen_image()) is None:
        return Server(settings=settings, janitor=janitor)
    from stack.container import Container  # takes half a second, only a container needs it

    return Container(image, settings=settings, janitor=janitor)
