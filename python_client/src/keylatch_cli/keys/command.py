"""The commands for admins: issue, list, show, rotate, revoke, suspend, retire and others."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from typing import Annotated, Any, Literal

import typer

from keylatch.errors import InvalidArgument, KeylatchError, Unavailable
from keylatch.models import IssuedKey, Key, Revocation, SessionEnding

from .. import output
from ..connection import Options, any_connection, connect
from ..output import Json
from ..settings import setting
from .times import parse_duration, parse_time

Workspace = Annotated[
    str | None,
    typer.Argument(
        metavar="WORKSPACE_ID",
        help="The workspace. Default: $KEYLATCH_WORKSPACE_ID.",
        show_default=False,
    ),
]
KeyId = Annotated[str, typer.Argument(metavar="KEY_ID", help="The key's id, not the key.")]
Reason = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="The reason, for the audit log.", show_default=False),
]
Yes = Annotated[
    bool, typer.Option("--yes", "-y", metavar="", help="Do not ask. Scripts are never asked.")
]
KeyOnly = Annotated[
    bool,
    typer.Option("--key-only", metavar="", help="Print only the new key, for a pipe."),
]
Expires = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="When the key expires: 90d (from now), 2027-01-31 (UTC) or 2027-01-31T09:30Z.",
        show_default=False,
    ),
]


@any_connection
def issue(
    options: Options,
    workspace_id: Workspace = None,
    kind: Annotated[
        Literal["publishable", "secret"],
        typer.Option(help="publishable for a web page, secret for a server."),
    ] = "publishable",
    label: Annotated[str, typer.Option(metavar="TEXT", help="A name for people.")] = "",
    origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN",
            help="An origin whose pages may use a publishable key: https://client.example or "
            "https://*.client.example. Repeat for more origins.",
            show_default=False,
        ),
    ] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WORD", help="A scope of the key. Repeat for more.", show_default=False
        ),
    ] = None,
    environment: Annotated[
        Literal["live", "test"], typer.Option(help="Test keys may allow any origin.")
    ] = "live",
    expires: Expires = None,
    metadata: Annotated[
        str, typer.Option(metavar="JSON", help="A JSON object for the application.")
    ] = "{}",
    prefix: Annotated[str, typer.Option(metavar="WORD", help="The first word of the key.")] = "wk",
    key_only: KeyOnly = False,
    as_json: Json = False,
) -> None:
    """Issue a key, and show it. A secret key is shown only here.

    A publishable key may be in a web page, and works only from its origins. A secret key belongs
    on a server.
    """
    _one_form(key_only, as_json)
    issued = connect(options).issue(
        _workspace(workspace_id),
        kind=kind,
        label=label,
        allowed_origins=origin or (),
        scopes=scope or (),
        environment=environment,
        expires_at=parse_time("expires", expires),
        metadata=_metadata(metadata),
        prefix=prefix,
    )
    _print_issued(issued, key_only, as_json)


@any_connection
def list_(
    options: Options,
    workspace_id: Workspace = None,
    status: Annotated[
        Literal["active", "superseded", "suspended", "expired", "revoked"] | None,
        typer.Option(
            metavar="STATUS",
            help="Only this status: active, superseded, suspended, expired or revoked.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List all keys of a workspace, the newest first."""
    keys = [
        key
        for key in connect(options).list(_workspace(workspace_id))
        if status in (None, key.status)
    ]
    if as_json:
        output.print_json(keys)
    elif keys:
        columns = ["Id and key", "Status", "Expires", "Label"]
        output.table(columns, [_row(key) for key in keys], whole=columns[:3])
    else:
        output.note("no keys: the workspace has none, or you do not administer it")


@any_connection
def show(options: Options, key_id: KeyId, as_json: Json = False) -> None:
    """Show one key. The text of a secret key is masked."""
    _print_key(connect(options).show(key_id), as_json)


@any_connection
def rotate(
    options: Options,
    key_id: KeyId,
    grace: Annotated[
        str,
        typer.Option(metavar="DURATION", help="How long the old key still resolves, up to 30d."),
    ] = "0",
    expires: Expires = None,
    key_only: KeyOnly = False,
    as_json: Json = False,
) -> None:
    """Replace a key by a new key, and show the new key.

    The new key has the same properties.

    Without --grace, the old key is revoked at once.
    """
    _one_form(key_only, as_json)
    issued = connect(options).rotate(
        key_id,
        grace=parse_duration("grace", grace),
        expires_at=parse_time("expires", expires),
    )
    _print_issued(issued, key_only, as_json)


@any_connection
def revoke(
    options: Options,
    key_id: KeyId,
    reason: Reason = None,
    cascade: Annotated[
        bool,
        typer.Option("--cascade", metavar="", help="Also revoke all keys of its rotation family."),
    ] = False,
    wait_for_replicas: Annotated[
        bool,
        typer.Option(
            "--wait-for-replicas",
            metavar="",
            help="Wait until every synchronous standby refuses the key.",
        ),
    ] = False,
    legacy: Annotated[
        bool,
        typer.Option("--legacy", metavar="", help="KEY_ID is the id of a legacy key."),
    ] = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Revoke a key for good. You can revoke a key again without an error."""
    if legacy and (cascade or wait_for_replicas):
        raise KeylatchError(
            "usage",
            detail="--legacy cannot be combined with --cascade and --wait-for-replicas",
            hint="Leave them out: a legacy key has no rotation family, and no cache holds it.",
        )
    keylatch = connect(options)
    if not yes and sys.stdin.isatty():
        family = " and its rotation family" if cascade else ""
        name = f"legacy key {key_id}" if legacy else _name(keylatch.show(key_id))
        output.confirm(f"Revoke {name}{family} for good?")
    if legacy:
        done = keylatch.revoke_legacy_key(key_id, reason=reason)
    else:
        done = keylatch.revoke(
            key_id, reason=reason, cascade=cascade, wait_for_replicas=wait_for_replicas
        )
    if as_json:
        output.print_json(done)
        return
    also = {"also revoked": "\n".join(map(str, done.also_revoked))} if cascade else {}
    output.details({**_revoked(done), **also})


@any_connection
def end_sessions(
    options: Options, key_id: KeyId, reason: Reason = None, yes: Yes = False, as_json: Json = False
) -> None:
    """Revoke an abused key, and end all its sessions."""
    keylatch = connect(options)
    if not yes and sys.stdin.isatty():
        name = _name(keylatch.show(key_id))
        output.confirm(f"Revoke {name} for good, and end the sessions of its visitors?")
    done = keylatch.end_sessions(key_id, reason=reason)
    if as_json:
        output.print_json(done)
    else:
        output.details({**_revoked(done), "sessions ended": f"{done.ended:,}"})


@any_connection
def suspend(options: Options, key_id: KeyId, as_json: Json = False) -> None:
    """Suspend a key until unsuspend."""
    _print_key(connect(options).suspend(key_id), as_json)


@any_connection
def unsuspend(options: Options, key_id: KeyId, as_json: Json = False) -> None:
    """Let a suspended key resolve again."""
    _print_key(connect(options).unsuspend(key_id), as_json)


@any_connection
def retire(
    options: Options,
    workspace_id: Annotated[str, typer.Argument(metavar="WORKSPACE_ID", help="The workspace.")],
    limit: Annotated[
        int, typer.Option(metavar="NUMBER", help="How many keys to revoke per step.")
    ] = 10_000,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Revoke all keys of a workspace.

    Use this before you delete a workspace that has too many keys to be deleted in one step.
    """
    keylatch = connect(options)
    if not yes and sys.stdin.isatty():
        output.confirm(f"Revoke all keys of the workspace {workspace_id} for good?")
    revoked, is_done = 0, False
    while not is_done:
        done = keylatch.retire_workspace(workspace_id, limit=limit)
        revoked, is_done = revoked + done.revoked, done.is_done
        if not is_done:
            output.note(f"{revoked:,} keys revoked so far")
    if as_json:
        output.print_json({"revoked": revoked, "is_done": is_done})
    else:
        output.details({"revoked": f"{revoked:,}"})
        if not revoked:
            output.note("The workspace had no active keys. Check the id if you expected some.")


@any_connection
def legacy(options: Options, workspace_id: Workspace = None, as_json: Json = False) -> None:
    """List the legacy keys of a workspace.

    Legacy keys were imported with a salted hash. The first use of a legacy key upgrades it.
    """
    keys = connect(options).legacy_keys(_workspace(workspace_id))
    if as_json:
        output.print_json(keys)
        return
    if not keys:
        output.note(
            "no legacy keys: none has a salted hash, or you do not administer the workspace"
        )
        return
    columns = ["Id and key", "Status", "Scheme", "Expires", "Label"]
    rows: list[list[Any]] = [
        [
            output.text(str(key.id), "\n", (output.printable(key.masked_key), "dim")),
            output.status(key.status),
            key.scheme,
            _day(key.expires_at),
            key.label,
        ]
        for key in keys
    ]
    output.table(columns, rows, whole=columns[:4])


def _name(key: Key) -> str:
    return f"{key.masked_key} ({key.label})" if key.label else key.masked_key


def _revoked(done: Revocation | SessionEnding) -> dict[str, Any]:
    again = " already" if done.already_revoked else ""
    return {"id": str(done.id), "revoked": output.when(done.revoked_at) + again}


def _workspace(given: str | None) -> str:
    workspace_id = given or setting("KEYLATCH_WORKSPACE_ID")
    if workspace_id is None:
        raise KeylatchError(
            "usage",
            detail="no workspace is set",
            hint="Pass a workspace id, or set KEYLATCH_WORKSPACE_ID in the environment or in .env.",
        )
    return workspace_id


def _metadata(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    raise InvalidArgument.of("metadata", "is not JSON", 'Write, for example, \'{"plan": "pro"}\'.')


def _one_form(key_only: bool, as_json: bool) -> None:
    if key_only and as_json:
        raise KeylatchError("usage", detail="--key-only and --json cannot be combined")


def _print_issued(issued: IssuedKey, key_only: bool, as_json: bool) -> None:
    """Print a new key. This is the only place where the program reveals a `Secret`."""
    try:
        if key_only:
            sys.stdout.write(f"{issued.key.reveal()}\n")
        elif as_json:
            output.print_json(output.as_dict(issued) | {"key": issued.key.reveal()})
        else:
            key = output.text((issued.key.reveal(), "bold"))
            output.details({"key": key, **_properties(issued)})
        # Flush now, because only here the key's id is known.
        sys.stdout.flush()
    except OSError as problem:
        output.discard_stdout()
        raise Unavailable(
            "key_not_shown",
            detail=f"the key {issued.id} was issued, but cannot be written: {problem.strerror}",
            hint=f"Run: keylatch revoke {issued.id}; then issue or rotate again.",
        ) from None
    if as_json:
        return
    if issued.kind == "publishable" and not issued.allowed_origins:
        output.note("No page can use the key: it has no allowed origin. Issue a key with --origin.")
    elif issued.kind == "secret" and not key_only:
        output.note("This is the only time that the key is shown: store it now.")


def _print_key(key: Key, as_json: bool) -> None:
    if as_json:
        output.print_json(key)
        return
    changes = {
        "suspended": key.suspended_at,
        "superseded": key.superseded_at,
        "revoked": key.revoked_at,
        "revoked by": key.revoked_by,
        "reason": key.revoke_reason,
    }
    output.details(
        {
            "key": key.public_key or key.masked_key,
            "status": output.status(key.status),
            "fingerprint": key.fingerprint,
            **_properties(key),
            **{name: _word(value) for name, value in changes.items()},
        }
    )


def _properties(key: IssuedKey | Key) -> dict[str, Any]:
    """Return the properties that a key has from the start."""
    found = {
        "id": key.id,
        "workspace": key.workspace_id,
        "kind": f"{key.kind}, {key.environment}",
        "label": key.label,
        "origins": "\n".join(key.allowed_origins),
        "scopes": " ".join(key.scopes),
        "metadata": output.compact(key.metadata),
        "expires": output.when(key.expires_at),
        "rotated from": key.rotated_from,
        "created": key.created_at,
        "created by": key.created_by,
    }
    return {name: _word(value) for name, value in found.items()}


def _word(value: object) -> str:
    if value is None:
        return ""
    return output.when(value) if isinstance(value, datetime) else str(value)


def _row(key: Key) -> list[Any]:
    return [
        output.text(str(key.id), "\n", (output.printable(key.masked_key), "dim")),
        output.status(key.status),
        _day(key.expires_at),
        key.label,
    ]


def _day(time: datetime | None) -> str:
    return "never" if time is None else f"{time:%Y-%m-%d}"
