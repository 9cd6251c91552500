"""Writes a file atomically: after an interruption, either the old or the new file exists."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkstemp
from typing import BinaryIO


@contextmanager
def replacing(path: Path, mode: int) -> Iterator[BinaryIO]:
    """Open a new file with a random name, and rename it to `path` when it is complete.

    Args:
        path: The final path.
        mode: The permissions of the file.

    Yields:
        The file, open for writing.

    Raises:
        OSError: The file cannot be written.
    """
    # mkstemp follows no link, because it creates only files that do not exist yet.
    number, name = mkstemp(prefix=".keylatch-", dir=path.parent)
    try:
        with os.fdopen(number, "wb") as file:
            yield file
            os.fchmod(file.fileno(), mode)
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise
