"""What `keylatch import` prints: the systems, the progress, each line, and the counts."""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from .. import output

if TYPE_CHECKING:
    from .batches import Import, Outcome

_OUTCOMES = {
    "imported": "imported",
    "waiting": "waiting for their first use",
    "changed": "with a new label or new scopes",
    "moved": "moved towards their end",
    "exists": "unchanged",
    "refused": "refused",
}


def list_presets(as_json: bool) -> None:
    """List the systems of `--from`.

    Args:
        as_json: As JSON.
    """
    from .presets import load, names

    found = [load(name) for name in names()]
    if as_json:
        output.print_json(
            [
                {
                    name: getattr(one, name)
                    for name in ("name", "system", "table", "presented", "about", "refused")
                }
                for one in found
            ]
        )
        return
    for one in found:
        note = " (cannot be imported)" if one.refused else ""
        sys.stdout.write(f"{one.name:<28}{one.system}{note}\n")


@contextmanager
def reported(file: str | None) -> Iterator[Callable[[list[Outcome]], None]]:
    """Write what became of each line into a file, if one is wanted.

    Args:
        file: Its path; `None` for none.

    Yields:
        What to call with the outcomes of a batch.
    """
    if file is None:
        yield lambda _: None
        return
    with Path(file).open("w", encoding="utf-8", newline="") as written:
        rows = csv.writer(written)
        rows.writerow(["line", "outcome", "key_id", "detail", "hint"])

        def tell(outcomes: list[Outcome]) -> None:
            rows.writerows(
                [one.number, said.outcome, said.key_id, said.detail, said.hint]
                for one in outcomes
                for said in (one.outcome,)
            )

        yield tell


@contextmanager
def progress(stream: BinaryIO, size: int | None) -> Iterator[Callable[[Counter[str]], None]]:
    """Show on a terminal how much of the file is read, and how many lines are done.

    Args:
        stream: The file.
        size: How many bytes it has; `None` if nobody knows.

    Yields:
        What to call with the counts after a batch.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.fields[lines]:,} lines"),
        BarColumn(),
        TimeRemainingColumn(compact=True),
    )
    with Progress(
        *columns, console=output.err(), transient=True, disable=not output.err().is_terminal
    ) as progress:
        task = progress.add_task("", total=size, lines=0)

        def advance(counts: Counter[str]) -> None:
            place = stream.tell() if size else 0
            progress.update(task, completed=place, lines=counts.total())

        yield advance


def say_outcome(one: Outcome, as_json: bool) -> None:
    """Print what became of a line.

    Args:
        one: What became of it.
        as_json: As JSON.
    """
    outcome = one.outcome
    if as_json:
        fields = {"line": one.number, **output.as_dict(outcome)}
        del fields["position"]
        sys.stdout.write(json.dumps(fields, default=str) + "\n")
        return
    word = outcome.slug if outcome.outcome == "refused" else outcome.outcome
    hint = f" ({outcome.hint})" if outcome.hint else ""
    said = output.printable(f"{outcome.detail}{hint}")
    sys.stdout.write(f"line {one.number}: {word}: {said}\n")


def summary(counts: Counter[str], import_: Import, as_json: bool) -> None:
    """Print how many lines had each outcome.

    Args:
        counts: How many.
        import_: The import.
        as_json: As JSON.
    """
    names = {**_OUTCOMES, "deleted": "keys revoked that the file lacks"}
    if as_json:
        numbers = {name: counts[name] for name in names}
        last = {"dry_run": import_.dry_run, "import_id": import_.id}
        sys.stdout.write(json.dumps({**numbers, **last}, default=str) + "\n")
        return
    said = ", ".join(
        f"{counts[name]:,} {words}"
        for name, words in names.items()
        if counts[name] or name in ("imported", "refused")
    )
    output.note(f"{'Lines of the dry run' if import_.dry_run else 'Lines'}: {said}")
