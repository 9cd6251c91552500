"""Imports the keys of another system from a file of any length. For `keylatch import`."""

from __future__ import annotations

import csv
import io
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from queue import SimpleQueue
from typing import Any, BinaryIO

from keylatch.arguments import import_line
from keylatch.client import Keylatch
from keylatch.errors import InvalidArgument
from keylatch.models import ImportOutcome, ImportReport
from keylatch.transports import Batch

BATCH = 5000
"""How many lines go to the database at once, in one transaction."""
# Cells of a CSV file that are more than their text.
_CELLS: Mapping[str, Callable[[str], object]] = {
    "allowed_origins": str.split,
    "scopes": str.split,
    "metadata": json.loads,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line of the file.

    Attributes:
        number: Its place in the file, from 1; the last line of a CSV record that has several.
        fields: What `import_keys` takes; `None` if the line cannot be read.
        problem: Why it cannot be read.
    """

    number: int
    fields: dict[str, object] | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a line of the file.

    Attributes:
        number: Its place in the file, from 1.
        outcome: As in `ImportOutcome`, with the attributes that follow.
    """

    number: int
    outcome: ImportOutcome


def read_lines(
    file: BinaryIO, form: str, *, defaults: Mapping[str, str] | None = None
) -> Iterator[Line]:
    """Read a file line by line.

    Args:
        file: Its bytes, UTF-8.
        form: `csv`, whose first line names the fields, or `jsonl`, one object a line. In CSV an
            empty cell means that the field is missing, origins and scopes are separated by spaces,
            and metadata is JSON.
        defaults: Fields for the lines that do not have them, as a CSV file would write them.

    Yields:
        The lines, without the empty ones. A line that cannot be read says why.
    """
    given = {name: _cell(name, value) for name, value in (defaults or {}).items()}
    for line in (_csv if form == "csv" else _jsonl)(file):
        if line.fields is None:
            yield line
            continue
        fields = {name: value for name, value in line.fields.items() if value is not None}
        try:
            sendable = import_line("line", {**given, **fields})
        except InvalidArgument as problem:
            yield Line(number=line.number, problem=str(problem.detail))
        else:
            yield Line(number=line.number, fields=sendable)


def import_file(
    clients: Sequence[Keylatch],
    lines: Iterable[Line],
    *,
    dry_run: bool = False,
    done: Callable[[int, list[Outcome]], None],
) -> None:
    """Import lines in batches. While the database works on some, the next batch is read.

    Args:
        clients: Clients of the service role; each has one batch at a time.
        lines: As `read_lines` gives them.
        dry_run: Only say what would happen.
        done: Called after each batch in its order, with the number of its last line and the
            outcome of each line.

    Raises:
        KeylatchError: A batch failed as a whole. The batches before it are imported.
    """
    free: SimpleQueue[Keylatch] = SimpleQueue()
    for client in clients:
        free.put(client)

    def send(batch: list[Line]) -> ImportReport:
        client = free.get()
        try:
            return client.import_keys(
                Batch(line.fields for line in batch if line.fields is not None), dry_run=dry_run
            )
        finally:
            free.put(client)

    lines = iter(lines)
    sent: deque[tuple[list[Line], Future[ImportReport]]] = deque()
    with ThreadPoolExecutor(len(clients), "keylatch-import") as sender:
        try:
            while batch := list(islice(lines, BATCH)):
                sent.append((batch, sender.submit(send, batch)))
                if len(sent) > len(clients):
                    _tell(*sent.popleft(), done)
            while sent:
                _tell(*sent.popleft(), done)
        except BaseException:
            sender.shutdown(cancel_futures=True)
            raise


def _tell(
    batch: list[Line], report: Future[ImportReport], done: Callable[[int, list[Outcome]], None]
) -> None:
    answers = iter(report.result().lines)
    done(
        batch[-1].number,
        [
            Outcome(
                number=line.number,
                outcome=next(answers) if line.fields is not None else _unread(line.problem),
            )
            for line in batch
        ],
    )


def _unread(problem: str) -> ImportOutcome:
    return ImportOutcome(
        position=0,
        outcome="refused",
        key_id=None,
        slug="invalid_argument",
        detail=problem,
        hint=None,
    )


def _jsonl(file: BinaryIO) -> Iterator[Line]:
    for number, raw in enumerate(file, 1):
        if not raw.strip():
            continue
        try:
            fields: Any = json.loads(raw)
        # The error repeats nothing of the line: it may hold a key.
        except (ValueError, RecursionError):
            yield Line(number=number, problem="the line is not JSON")
            continue
        if isinstance(fields, dict):
            yield Line(number=number, fields=fields)
        else:
            yield Line(number=number, problem="the line is not a JSON object")


def _csv(file: BinaryIO) -> Iterator[Line]:
    # A byte that is not UTF-8 costs its own line only.
    text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
    try:
        yield from _records(csv.reader(text, strict=True))
    finally:
        # The file is the caller's to close.
        text.detach()


def _records(rows: Any) -> Iterator[Line]:
    names: list[str] | None = None
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error:
            yield Line(number=rows.line_num, problem="the line is not CSV")
            continue
        if names is None:
            names = [name.strip() for name in row]
        elif len(row) > len(names):
            yield Line(number=rows.line_num, problem="the line has more cells than the first one")
        elif any(row):
            yield _record(rows.line_num, dict(zip(names, row, strict=False)))


def _record(number: int, row: Mapping[str, str]) -> Line:
    fields: dict[str, object] = {}
    for name, value in row.items():
        try:
            fields[name] = _cell(name, value)
        except (ValueError, RecursionError):
            return Line(number=number, problem=f"{name} is not JSON")
    return Line(number=number, fields=fields)


def _cell(name: str, value: str) -> object:
    return _CELLS.get(name, str)(value) if value else None
