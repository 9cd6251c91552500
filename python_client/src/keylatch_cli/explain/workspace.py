"""`keylatch explain --workspace`: prints why the keys of a workspace do not resolve."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

import typer

from keylatch.errors import InvalidArgument, NotInstalled

from .. import output
from ..importing.files import defaults_of, form_of, opened

if TYPE_CHECKING:
    from keylatch.client import Keylatch

    from .diagnosis import Finding

Named = tuple[str, str, "Finding"]


def explain_workspace(
    keylatch: Keylatch,
    workspace: str,
    *,
    old: str | None,
    form: str | None,
    defaults: list[str] | None,
    as_json: bool,
) -> None:
    """Print whether each key of a workspace resolves, or each line of a file for the workspace.

    Args:
        keylatch: A client of an admin.
        workspace: The workspace's id.
        old: A file with keys of another system, as for `keylatch import`; `-` for stdin.
        form: `csv` or `jsonl`; `None` if the file's name ends in its format.
        defaults: Values for fields that a line lacks, written `NAME=VALUE`.
        as_json: Whether to print JSON.

    Raises:
        InvalidArgument: The id is not a UUID.
        typer.Exit: With exit code 1, if a key does not resolve.
    """
    try:
        wanted = UUID(workspace)
    except ValueError:
        raise InvalidArgument.of("workspace", "is not a UUID") from None
    found = list(_lines(wanted, old, form, defaults) if old else _keys(keylatch, wanted))
    if as_json:
        output.print_json(
            [
                {
                    "id" if not old else "line": name,
                    ("label" if old else "masked_key"): shown,
                    **output.as_dict(finding),
                }
                for name, shown, finding in found
            ]
        )
    else:
        _print(found, of_lines=old is not None)
    if any(finding.verdict != "valid" for _, _, finding in found):
        raise typer.Exit(output.REFUSED)


def _keys(keylatch: Keylatch, workspace: UUID) -> Iterator[Named]:
    from .diagnosis import explain_keys, explain_legacy

    try:
        legacy_keys = keylatch.legacy_keys(workspace)
    except NotInstalled:
        legacy_keys = ()  # Without the module there are no legacy keys.
    waiting = [key for key in legacy_keys if key.status != "upgraded"]
    # The list of all keys has the waiting keys, too, but resolve does not find them.
    ids = {key.id for key in waiting}
    keys = [key for key in keylatch.list(workspace) if key.id not in ids]
    for key, finding in zip(keys, explain_keys(keys), strict=True):
        yield str(key.id), key.masked_key, finding
    findings = explain_legacy(waiting)
    for legacy, finding in zip(waiting, findings, strict=True):
        yield str(legacy.id), legacy.masked_key, finding


def _lines(
    workspace: UUID, file: str, form: str | None, defaults: list[str] | None
) -> Iterator[Named]:
    from ..importing.lines import Reading, read_lines
    from ..importing.rows import read_rows
    from .diagnosis import Finding, explain_old

    now = datetime.now(UTC)
    with opened(file) as (stream, _):
        rows = read_rows(stream, form_of(file, form))
        for line in read_lines(rows, Reading(defaults=defaults_of(defaults or []))):
            if line.fields is None:
                yield str(line.number), "", Finding("unreadable", line.problem, "Correct the line.")
            elif str(line.fields.get("workspace_id") or workspace).lower() == str(workspace):
                label = line.fields.get("label")
                yield str(line.number), str(label or ""), explain_old(line.fields, now=now)


def _print(found: list[Named], *, of_lines: bool) -> None:
    if not found:
        output.note("no keys: the workspace has none, or you do not administer it")
        return
    rows = [
        [
            output.text(name, *((f"\n{output.printable(shown)}", "dim"),) if shown else ()),
            output.text(
                (finding.verdict, "green" if finding.verdict == "valid" else "red"),
                f"\n{output.printable(finding.detail)}",
                (f"\n{output.printable(finding.hint)}" if finding.hint else "", "dim"),
            ),
        ]
        for name, shown, finding in found
    ]
    output.table(["Line" if of_lines else "Id and key", "Does it resolve?"], rows)
    counts = Counter(finding.verdict for _, _, finding in found)
    output.note(", ".join(f"{count} {verdict}" for verdict, count in counts.most_common()))
