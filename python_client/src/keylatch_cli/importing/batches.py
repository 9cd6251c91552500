"""Sends the lines of an import in batches, and reads the next lines meanwhile."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from queue import SimpleQueue
from typing import NamedTuple
from uuid import UUID

from keylatch.arguments import Batch
from keylatch.client import Keylatch
from keylatch.errors import KeylatchError
from keylatch.models import ImportOutcome

from .lines import Line

LARGEST, FIRST = 5000, 1000
"""The largest and the first number of lines in a batch. A batch is one transaction."""
# Far below the statement timeout of hosted Supabase, 8 s.
_SECONDS = 1.5
_CANCELED = "57014"


class Outcome(NamedTuple):
    """The outcome of a line of the file.

    Attributes:
        number: The line number in the file, from 1.
        outcome: The outcome, from `import_keys`.
    """

    number: int
    outcome: ImportOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """The arguments of `import_keys` that all batches of a file share.

    Attributes:
        source: The name of the file's system and table; empty if no option names it.
        id: The id of the import.
        dry_run: Whether to only report what would happen.
    """

    source: str
    id: UUID
    dry_run: bool = False


def import_file(
    clients: Sequence[Keylatch],
    lines: Iterable[Line],
    import_: Import,
    *,
    done: Callable[[int, list[Outcome]], None],
) -> None:
    """Import lines in batches. While the database handles a batch, the next batch is read.

    Args:
        clients: Clients with the service key. Each client sends one batch at a time.
        lines: The lines, from `read_lines`.
        import_: The arguments that all batches share.
        done: Called after each batch, in the order of the file, with the number of the batch's
            last line and the outcome of each line.

    Raises:
        KeylatchError: A batch failed as a whole. Earlier batches stay imported.
    """
    free: SimpleQueue[Keylatch] = SimpleQueue()
    for client in clients:
        free.put(client)
    size = FIRST

    def send(batch: list[Line]) -> list[ImportOutcome]:
        nonlocal size
        client = free.get()
        began = time.monotonic()
        try:
            return _send(client, [line for line in batch if line.fields is not None], import_)
        finally:
            taken = time.monotonic() - began
            size = max(10, min(LARGEST, int(len(batch) * min(_SECONDS / taken, 4))))
            free.put(client)

    lines = iter(lines)
    sent: deque[tuple[list[Line], Future[list[ImportOutcome]]]] = deque()
    with ThreadPoolExecutor(len(clients), "keylatch-import") as sender:
        try:
            while batch := list(islice(lines, size)):
                sent.append((batch, sender.submit(send, batch)))
                if len(sent) > len(clients):
                    _tell(*sent.popleft(), done)
            while sent:
                _tell(*sent.popleft(), done)
        except BaseException:
            sender.shutdown(cancel_futures=True)
            raise


def _send(client: Keylatch, lines: list[Line], import_: Import) -> list[ImportOutcome]:
    try:
        return list(
            client.import_keys(
                Batch(line.fields for line in lines),
                dry_run=import_.dry_run,
                source=import_.source,
                import_id=import_.id,
            ).lines
        )
    except KeylatchError as problem:
        # The statement reached its timeout, and was rolled back.
        if problem.sqlstate != _CANCELED or len(lines) == 1:
            raise
    half = len(lines) // 2
    return [*_send(client, lines[:half], import_), *_send(client, lines[half:], import_)]


def _tell(
    batch: list[Line],
    outcomes: Future[list[ImportOutcome]],
    done: Callable[[int, list[Outcome]], None],
) -> None:
    answers = iter(outcomes.result())
    done(
        batch[-1].number,
        [
            Outcome(
                number=line.number,
                outcome=_named(line, next(answers))
                if line.fields is not None
                else _unread(line.problem),
            )
            for line in batch
        ],
    )


def _named(line: Line, outcome: ImportOutcome) -> ImportOutcome:
    """Add the file's column name to a reason that begins with the name of a field."""
    if outcome.outcome == "refused" and outcome.detail:
        word, _, rest = outcome.detail.partition(" ")
        column = line.columns.get(word)
        if column is not None and column.lower() != word:
            return replace(outcome, detail=f"{column}: {word} {rest}")
    return outcome


def _unread(problem: str) -> ImportOutcome:
    return ImportOutcome(
        position=0,
        outcome="refused",
        key_id=None,
        slug="invalid_argument",
        detail=problem,
        hint=None,
    )
