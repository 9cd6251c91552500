"""Prints for `keylatch import`: the list of systems, the progress, refused lines and the counts."""

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
    "waiting": "waiting for first use",
    "changed": "changed (label or scopes)",
    "moved": "revoked, suspended or expiring earlier",
    "exists": "unchanged",
    "refused": "refused",
}


def list_presets(as_json: bool) -> None:
    """Print the systems that `--from` accepts.

    Args:
        as_json: Whether to print JSON.
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
    """Open the report file of `--report`, which gets the outcome of each line.

    Args:
        file: The path of the report; `None` for no report.

    Yields:
        A function to call with the outcomes of each batch.
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
    """Show a progress bar on a terminal: the part of the file that is read, and the line count.

    Args:
        stream: The file.
        size: The size of the file in bytes; `None` if unknown.

    Yields:
        A function to call with the counts after each batch.
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
    """Print the outcome of a line.

    Args:
        one: The outcome of the line.
        as_json: Whether to print JSON.
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
        counts: The number of lines by outcome.
        import_: The import.
        as_json: Whether to print JSON.
    """
    names = {**_OUTCOMES, "deleted": "keys revoked because they are not in the file"}
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
