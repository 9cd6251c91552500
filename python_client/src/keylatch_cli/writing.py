"""Writes a file in one step: whatever interrupts it, the old file or the new one is there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkstemp
from typing import BinaryIO


@contextmanager
def replacing(path: Path, mode: int) -> Iterator[BinaryIO]:
    """Give a new file of a random name, which takes this place when it is complete.

    Args:
        path: The place.
        mode: The permissions of the file.

    Yields:
        The file, open for writing.

    Raises:
        OSError: The file cannot be written.
    """
    # mkstemp follows no link: a file of that name must not be there.
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
