"""The server that the environment chooses: a local server, or a container."""

import os
from collections.abc import Mapping

from stack.cluster import Cluster
from stack.janitor import Janitor
from stack.server import Server


def chosen_image() -> str | None:
    """The image that `KEYLATCH_IMAGE` names, or None where the servers are our own."""
    return os.environ.get("KEYLATCH_IMAGE") or None


def chosen_cluster(
    *, settings: Mapping[str, str] | None = None, janitor: Janitor | None = None
) -> Cluster:
    """Start a container of the image in `KEYLATCH_IMAGE`, else a server as `KEYLATCH_PG` says.

    Args:
        settings: More settings of PostgreSQL, which win over ours.
        janitor: Who ends it with the run; one of its own unless given.
    """
    if (image := chosen_image()) is None:
        return Server(settings=settings, janitor=janitor)
    from stack.container import Container  # half a second that nobody else needs to wait

    return Container(image, settings=settings, janitor=janitor)
