"""The command that imports the keys of another system: import."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from getpass import getpass
from itertools import dropwhile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO
from uuid import uuid4

import typer

from keylatch.errors import InvalidArgument, KeylatchError

from .. import output
from ..connection import Options, any_connection, connect
from ..output import Json
from .files import Format, Set, defaults_of, form_of, opened, workspaces_of, zone_of
from .telling import list_presets, progress, reported, say_outcome, summary

if TYPE_CHECKING:
    from keylatch.client import Keylatch

    from .batches import Import, Outcome
    from .lines import Line, Reading
    from .presets import Preset
    from .probing import Probe

File = Annotated[
    str | None,
    typer.Argument(
        metavar="FILE|verify",
        help="A .csv, .tsv or .jsonl file, - for stdin (add --format), or the word verify.",
        show_default=False,
    ),
]

# A batch keeps one core of the server busy. More connections would slow the server for others.
_CONNECTIONS = 2
_UNDO = "Import {}. To undo this import before a key is used, see sql/docs/wrong_import.md"
_UNPROVEN = "Nobody has shown yet that these keys work. Try some: keylatch import verify KEYS"


class _Unfit(Exception):
    """Every line of the first batch was refused, so this is probably the wrong file."""


@any_connection
def import_(
    options: Options,
    file: File = None,
    keys: Annotated[
        str | None,
        typer.Argument(
            metavar="KEYS",
            help="For verify: a file with up to 20 keys, one per line. verify resolves them.",
            show_default=False,
        ),
    ] = None,
    from_: Annotated[
        str | None,
        typer.Option("--from", metavar="SYSTEM", help="The system of the file; see --presets."),
    ] = None,
    presets: Annotated[
        bool, typer.Option("--presets", metavar="", help="List the systems for --from.")
    ] = False,
    form: Format = None,
    encoding: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="cp1252 or latin-1. Default: UTF-8 or UTF-16."),
    ] = None,
    zone: Annotated[
        str | None,
        typer.Option(metavar="ZONE", help="Zone of times without one: Europe/Berlin."),
    ] = None,
    workspace_map: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="CSV lines: old tenant id, workspace id."),
    ] = None,
    secret: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name in Vault of the secret for the hashes."),
    ] = None,
    set_: Set = None,
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD", help="Do not import this field: scopes. Repeatable."),
    ] = None,
    probe: Annotated[
        str | None,
        typer.Option(
            metavar="KEYS",
            help="File of real keys. Import only if all resolve; - prompts for a key.",
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The name of the table. Default: --from."),
    ] = None,
    complete: Annotated[
        bool,
        typer.Option(
            "--complete", metavar="", help="Revoke keys of the same source that the file lacks."
        ),
    ] = False,
    report: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write the outcome of every line as CSV."),
    ] = None,
    from_line: Annotated[
        int, typer.Option(metavar="NUMBER", min=1, help="Continue here after an interruption.")
    ] = 1,
    force: Annotated[
        str | None,
        typer.Option(
            metavar="REASON",
            help="Also import plaintext keys that are weak or look like a placeholder.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", metavar="", help="Only show what would happen.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Import the keys of another system, in plaintext or hashed.

    Use the service key. With --from, FILE is a dump of that system's table. Without --from, FILE
    has the fields workspace_id and key; or, for a hash, hash with alg (sha256, pbkdf2_sha256,
    django, bcrypt) or scheme. More fields are in the comment of keylatch.import_keys. A refused
    line does not affect other lines. You can import a file again: an import can revoke or suspend
    a key, and never reactivates a key. A key with a salted hash waits for upgrade_key. Exit code 1
    if a line was refused, or if a key of --probe does not resolve.
    """
    from .batches import Import
    from .lines import Reading
    from .presets import PLAIN, load

    if presets:
        list_presets(as_json)
        return
    if file == "verify":
        _verify(connect(options), _keys_of(keys or "-"), as_json)
        return
    if file is None:
        raise KeylatchError("usage", detail="FILE is missing", hint="See: keylatch import --help")
    preset = load(from_) if from_ else PLAIN
    if preset.refused:
        raise KeylatchError(
            "not_importable",
            detail=f"{preset.system}: {preset.refused}",
            hint="Import each key at its first use: sql/docs/first_use.md",
        )
    import_ = Import(source=source or preset.name, id=uuid4(), dry_run=dry_run)
    if complete and (not import_.source or from_line > 1):
        raise KeylatchError(
            "usage",
            detail="--complete needs --source or --from, and no --from-line",
            hint="Use the same name for each import of the table: --source old-keys",
        )
    reading = Reading(
        preset=preset,
        defaults=defaults_of(set_ or []) | ({"force": force} if force else {}),
        zone=zone_of(zone),
        workspaces=workspaces_of(workspace_map),
        without=frozenset(without or []),
    )
    run = _Run(options, file, form_of(file, form), encoding, reading, import_, from_line)
    secret = secret or str(preset.recipe.get("secret", ""))
    if preset.scheme:
        recipe = {**preset.recipe, **({"secret": secret} if secret else {})}
        _declare(connect(options), preset, recipe)
    if probe is not None:
        run.probe(_keys_of(probe), secret)
    counts = run.write(report, as_json)
    if complete and not counts.total():
        raise KeylatchError(
            "usage",
            detail=f"{file} has no key, so --complete would revoke every key of its source",
            hint="Check the file. To revoke the keys of an import: sql/docs/wrong_import.md",
        )
    if complete and not counts["refused"] and not dry_run:
        counts["deleted"] = _finish(connect(options), import_)
    summary(counts, import_, as_json)
    if not as_json and not dry_run and counts["imported"] + counts["waiting"]:
        output.note(_UNDO.format(import_.id))
    if complete and counts["refused"]:
        output.note(
            "No missing keys were revoked, because lines were refused: their keys would be "
            "revoked too. Correct the lines, and import the file again."
        )
    if probe is None and not as_json and counts["imported"] + counts["waiting"]:
        output.note(_UNPROVEN)
    if counts["refused"]:
        raise typer.Exit(output.REFUSED)


class _Run:
    """The import of one file."""

    def __init__(
        self,
        options: Options,
        file: str,
        form: str,
        encoding: str | None,
        reading: Reading,
        import_: Import,
        from_line: int,
    ) -> None:
        self._options, self._file, self._form, self._encoding = options, file, form, encoding
        self._reading, self._import, self._from_line = reading, import_, from_line

    def _lines(self, stream: BinaryIO) -> Iterator[Line]:
        from .lines import read_lines
        from .rows import read_rows

        rows = read_rows(stream, self._form, self._encoding)
        return dropwhile(
            lambda line: line.number < self._from_line, read_lines(rows, self._reading)
        )

    def probe(self, probes: list[Probe], secret: str) -> None:
        """Try keys, and exit unless all of them resolve."""
        from .probing import probe, say

        if self._file == "-":
            raise KeylatchError(
                "usage", detail="--probe cannot be used with stdin, because it reads FILE twice"
            )
        with opened(self._file) as (stream, _):
            found = probe(connect(self._options), self._lines(stream), self._import, probes)
        bad = [(place, one) for place, one in enumerate(found, 1) if one.verdict != "valid"]
        for place, one in bad:
            output.note(say(place, one, secret))
        output.note(f"{len(found) - len(bad)} of {len(found)} keys resolve.")
        if bad:
            output.note("Nothing was imported.")
            raise typer.Exit(output.REFUSED)

    def write(self, report: str | None, as_json: bool) -> Counter[str]:
        """Import the lines, and return how many had each outcome."""
        from .batches import import_file

        counts: Counter[str] = Counter()
        last = self._from_line - 1
        with ExitStack() as stack:
            tell = stack.enter_context(reported(report))
            stream, size = stack.enter_context(opened(self._file))
            advance = stack.enter_context(progress(stream, size))

            def done(number: int, outcomes: list[Outcome]) -> None:
                nonlocal last
                first = not counts
                for one in outcomes:
                    counts[one.outcome.outcome] += 1
                    if one.outcome.detail:
                        say_outcome(one, as_json)
                tell(outcomes)
                last = number
                advance(counts)
                if first and counts["refused"] == len(outcomes) > 100:
                    raise _Unfit

            try:
                clients = [connect(self._options) for _ in range(_CONNECTIONS)]
                import_file(clients, self._lines(stream), self._import, done=done)
            except _Unfit:
                output.note("Stopped: every line of the first batch was refused.")
            except (KeylatchError, KeyboardInterrupt):
                if last >= self._from_line and not self._import.dry_run:
                    output.note(f"Lines 1 to {last} are done. To continue: --from-line {last + 1}")
                raise
        return counts


def _declare(client: Keylatch, preset: Preset, recipe: dict[str, object]) -> None:
    try:
        client.declare_scheme(preset.scheme, recipe=recipe)
    except InvalidArgument as problem:
        if "secret" not in recipe or "no secret" not in (problem.detail or "").lower():
            raise
        raise InvalidArgument(
            problem.slug,
            sqlstate=problem.sqlstate,
            detail=f"{preset.name} hashes with a secret, and the database has no secret named "
            f"{recipe['secret']}. {preset.about.rpartition('. ')[2]}.",
            hint=problem.hint,
        ) from None


def _finish(client: Keylatch, import_: Import) -> int:
    revoked = 0
    while True:
        done = client.finish_import(import_.source, import_id=import_.id)
        revoked += done.revoked
        if done.is_done:
            return revoked


def _keys_of(file: str) -> list[Probe]:
    from .probing import MOST, read_probes

    if file != "-":
        probes = read_probes(Path(file).read_text("utf-8-sig").splitlines())
    elif sys.stdin.isatty():
        probes = read_probes([getpass("Key: ")])
    else:
        probes = read_probes(sys.stdin)
    if not 1 <= len(probes) <= MOST:
        raise KeylatchError(
            "usage",
            detail=f"KEYS must have 1 to {MOST} keys, one per line",
            hint="For a key with a salted hash, add its workspace: KEY WORKSPACE_ID",
        )
    return probes


def _verify(client: Keylatch, probes: list[Probe], as_json: bool) -> None:
    """Print whether keys resolve, now or at their first use. The import can still be undone."""
    verdicts = []
    for place, one in enumerate(probes, 1):
        # One key a call: a slow hash takes seconds, and a statement on hosted Supabase 8 s at most.
        (tried,) = client.import_keys([], dry_run=True, probes=[one.sent]).probes
        verdict = tried.verdict
        verdicts.append(verdict)
        if not as_json:
            sys.stdout.write(f"key {place}: {verdict}\n")
    if as_json:
        output.print_json(verdicts)
    if verdicts.count("valid") < len(verdicts):
        raise typer.Exit(output.REFUSED)
