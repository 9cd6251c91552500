"""The commands for a presented key: resolve, upgrade and explain."""

from __future__ import annotations

import sys
from getpass import getpass
from typing import Annotated

import typer

from keylatch.errors import InvalidArgument, KeylatchError
from keylatch.models import ResolvedKey
from keylatch.secret import Secret

from .. import output
from ..connection import Options, any_connection, connect
from ..importing.files import Format, Set
from ..output import Json

# Far longer than any key. The rest of a longer text does not matter.
_LONGEST_READ = 65536

Origin = Annotated[
    str | None,
    typer.Option(
        metavar="ORIGIN",
        help="The Origin header of the request, if it has one.",
        show_default=False,
    ),
]


@any_connection
def resolve(options: Options, origin: Origin = None, as_json: Json = False) -> None:
    """Resolve a key as a service does.

    The command reads the key from stdin, or asks for the key without echo. The key is not an
    argument, because `ps` shows arguments. The exit code is 1 if the key does not resolve.
    """
    _print_found(connect(options).resolve(_read_key(), origin=origin), as_json)


@any_connection
def upgrade(
    options: Options,
    workspace: Annotated[
        str | None,
        typer.Option(
            metavar="WORKSPACE_ID",
            help="The workspace of the key. Required for a key without starts_with or ends_with.",
            show_default=False,
        ),
    ] = None,
    origin: Origin = None,
    as_json: Json = False,
) -> None:
    """Resolve a legacy key, and upgrade the key at its first use.

    A legacy key was imported with a salted hash. An upgraded key is an ordinary key of keylatch.

    The command reads the key from stdin, or asks for the key without echo. The exit code is 1 if
    the key does not resolve.
    """
    keylatch = connect(options)
    found = keylatch.upgrade_key(_read_key(), workspace_id=workspace, origin=origin)
    _print_found(found, as_json)


@any_connection
def explain(
    options: Options,
    origin: Origin = None,
    workspace: Annotated[
        str | None,
        typer.Option(
            metavar="WORKSPACE_ID",
            help="Explain all keys of a workspace instead.",
            show_default=False,
        ),
    ] = None,
    old: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="With --workspace: explain keys of another system, from a file in the format of "
            "keylatch import.",
            show_default=False,
        ),
    ] = None,
    form: Format = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Explain why a key resolves or not, and what to do.

    For admins. The command reads the key from stdin, or asks for the key without echo. The exit
    code is 1 unless the key is valid.
    """
    if workspace is not None:
        from .workspace import explain_workspace

        explain_workspace(
            connect(options), workspace, old=old, form=form, defaults=set_, as_json=as_json
        )
        return
    if old is not None:
        raise KeylatchError("usage", detail="--old needs --workspace")
    why = connect(options).explain(_read_key(), origin=origin)
    if as_json:
        output.print_json(why)
    else:
        output.details(
            {
                "verdict": output.text((why.verdict, "green" if why.verdict == "valid" else "red")),
                "why": why.detail or "",
                "what to do": why.hint or "",
                "key id": str(why.key_id or ""),
                "fingerprint": why.fingerprint,
                "expires": output.when(why.expires_at) if why.key_id else "",
            }
        )
    if why.verdict != "valid":
        raise typer.Exit(output.REFUSED)


def _print_found(found: ResolvedKey | None, as_json: bool) -> None:
    if found is None:
        output.fail(
            KeylatchError(
                "not_resolved",
                detail="the key is unknown, revoked, expired, suspended or from a wrong origin",
                hint="For the reason, run as an admin: keylatch explain",
            )
        )
    if as_json:
        output.print_json(found)
        return
    output.details(
        {
            "key id": str(found.key_id),
            "workspace": str(found.workspace_id),
            "kind": f"{found.kind}, {found.environment}",
            "scopes": " ".join(found.scopes),
            "metadata": output.compact(found.metadata),
            "expires": output.when(found.expires_at),
        }
    )


def _read_key() -> Secret:
    """Read a key from stdin. Only the line ending is removed."""
    if sys.stdin.isatty():
        text = getpass("Key: ")
    else:
        read = sys.stdin.buffer.read(_LONGEST_READ)
        # Bytes that are not UTF-8 are not a key. The database refuses them.
        text = read.decode(errors="replace").removesuffix("\n").removesuffix("\r")
    if not text:
        raise InvalidArgument.of("key", "is empty", "Run: keylatch resolve < key.txt")
    return Secret(text)
