"""`make demo`: the life of two keys, on a real PostgreSQL server behind a real PostgREST.

Every line shows a real call. If the outcome of a call is not the expected one, the demo stops with
exit code 1.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import psycopg
from postgrest.exceptions import APIError
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.padding import Padding
from rich.panel import Panel
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text
from supabase import Client, ClientOptions, create_client

from keylatch import Keylatch
from keylatch.errors import KeylatchError
from keylatch.models import ResolvedKey
from stack import Stack
from tools.audit import ask

T = TypeVar("T")
SITE, FOREIGN = "https://shop.example", "https://evil-shop.example"

console = Console(highlight=False, width=min(Console().width, 100))


class Unexpected(Exception):
    """The outcome of a call is not the expected one."""


def chapter(title: str, *, in_picture: bool = False) -> None:
    """Begin a chapter, which is in the picture only with `in_picture`."""
    console.record = in_picture
    console.print()
    console.rule(Text(title, style="bold"), align="left", style="dim")


def tell(mark: str, who: str, call: str, outcome: str) -> None:
    """Print one line: the caller, the call and its outcome."""
    colour = "green" if mark == "✓" else "red"
    line = Text.assemble((f"{mark} ", colour), (f"{who:<13}", "cyan"), call)
    console.print(line, soft_wrap=False)
    console.print(Padding(Text(outcome, style="dim"), (0, 0, 0, 15)))


def does(who: str, call: str, run: Callable[[], T], outcome: Callable[[T], str]) -> T:
    """Make a call that must succeed."""
    result = run()
    tell("✓", who, call, outcome(result))
    return result


def is_refused(who: str, call: str, run: Callable[[], Any], expected: str) -> None:
    """Make a call that the database must refuse with this slug or SQLSTATE."""
    slug: str | None
    try:
        result = run()
    except KeylatchError as error:
        slug, state, words = error.slug, error.sqlstate, error.detail
    except APIError as error:
        slug, state, words = error.message, error.code, error.details
    except psycopg.Error as error:
        slug, state = error.diag.message_primary, error.sqlstate
        words = error.diag.message_detail
    else:
        raise Unexpected(f"{who}: {call} was not refused but gave {result!r}")
    if expected not in (slug, state):
        raise Unexpected(f"{who}: {call} was refused with {state} {slug}, not {expected}")
    tell("✗", who, call, f"{state} {slug}" + (f": {words}" if words else ""))


def resolves(who: Keylatch, text: str, call: str, origin: str | None = None) -> None:
    """Resolve a key; it must be active."""

    def outcome(found: ResolvedKey | None) -> str:
        if found is None:
            raise Unexpected(f"{call} gave no key")
        ends = f", until {found.expires_at:%H:%M:%S}" if found.expires_at else ""
        return f"{found.kind} key of workspace {str(found.workspace_id)[:8]}…{ends}"

    does("service", call, lambda: who.resolve(text, origin=origin), outcome)


def resolves_to_nothing(who: Keylatch, text: str, call: str, origin: str | None = None) -> None:
    """Resolve a key; the answer must be no key."""
    if who.resolve(text, origin=origin) is not None:
        raise Unexpected(f"{call} still gave a key")
    tell("✗", "service", call, "no key")


def client(stack: Stack, token: str) -> Client:
    """A supabase client that sends this token."""
    headers = {"Authorization": f"Bearer {token}"}
    return create_client(stack.url, stack.anon_key, ClientOptions(headers=headers))


def story(stack: Stack) -> None:
    """Make all calls of the demo, and print each."""
    people = stack.people
    admin_client = client(stack, people.token("alice"))
    admin = Keylatch.from_supabase(admin_client)
    member = Keylatch.from_supabase(client(stack, people.token("mia")))
    stranger = Keylatch.from_supabase(client(stack, people.token("stranger")))
    anon = Keylatch.from_supabase(client(stack, stack.anon_key))
    service = Keylatch.from_supabase(client(stack, stack.token(role="keylatch_resolver")))

    console.print("✓ is a call that went through, ✗ one that the database refused.", style="dim")

    chapter("An admin issues two keys", in_picture=True)
    widget = does(
        "alice, admin",
        f"issue(workspace, allowed_origins=['{SITE}'])",
        lambda: admin.issue(people.a, label="shop widget", allowed_origins=[SITE]),
        lambda key: f"{key.key.reveal()}\npublishable: it may be in the page",
    )
    server = does(
        "alice, admin",
        "issue(workspace, kind='secret', scopes=['orders:read'])",
        lambda: admin.issue(people.a, kind="secret", label="backend", scopes=["orders:read"]),
        lambda key: f"{key.masked_key}\nsecret: shown once, in the answer of this call",
    )
    public, secret = widget.key.reveal(), server.key.reveal()

    chapter("The service resolves them, and nobody else does")
    resolves(service, public, f"resolve('{widget.masked_key}', origin='{SITE}')", SITE)
    resolves(service, secret, f"resolve('{server.masked_key}')")
    resolves_to_nothing(
        service, public, f"resolve('{widget.masked_key}', origin='{FOREIGN}')", FOREIGN
    )
    is_refused("mia, member", "issue(workspace)", lambda: member.issue(people.a), "42501")
    is_refused(
        "a stranger",
        f"revoke('{server.masked_key}')",
        lambda: stranger.revoke(server.id),
        "key_not_found",
    )
    is_refused("anon", f"resolve('{server.masked_key}')", lambda: anon.resolve(secret), "42501")

    chapter("A rotation with an hour's grace")
    successor = does(
        "alice, admin",
        f"rotate('{server.masked_key}', grace=1 hour)",
        lambda: admin.rotate(server.id, grace=timedelta(hours=1)),
        lambda key: f"{key.masked_key}, the successor",
    )
    resolves(service, secret, f"resolve('{server.masked_key}'), the old one")
    resolves(service, successor.key.reveal(), f"resolve('{successor.masked_key}'), the new one")
    table = admin_client.schema("keylatch").table("keys")

    def patch_expiry(when: datetime) -> Any:
        return table.update({"expires_at": when.isoformat()}).eq("id", str(server.id)).execute()

    is_refused(
        "alice, admin",
        "PATCH keys {expires_at: tomorrow} on the old one",
        lambda: patch_expiry(datetime.now(UTC) + timedelta(days=1)),
        "superseded_is_final",
    )
    ends_at = datetime.now(UTC) + timedelta(seconds=1)
    does(
        "alice, admin",
        "PATCH keys {expires_at: in a second} on the old one",
        lambda: patch_expiry(ends_at),
        lambda _: "the grace only ever gets shorter",
    )
    time.sleep(max(0.0, (ends_at - datetime.now(UTC)).total_seconds()) + 0.05)
    resolves_to_nothing(service, secret, f"resolve('{server.masked_key}'), a second later")

    chapter("A revocation, and five attempts to bring the key back", in_picture=True)
    does(
        "alice, admin",
        f"revoke('{widget.masked_key}', reason='leaked')",
        lambda: admin.revoke(widget.id, reason="leaked"),
        lambda done: f"revoked at {done.revoked_at:%H:%M:%S}",
    )
    revive(stack, admin_client, widget.id)
    resolves_to_nothing(service, public, f"resolve('{widget.masked_key}', origin='{SITE}')", SITE)

    chapter("Why does this key not work?")
    cut = successor.key.reveal()
    mistyped = cut[:-8] + ("a" if cut[-8] != "a" else "b") + cut[-7:]
    does(
        "alice, admin",
        f"explain('{successor.masked_key}'), one character mistyped",
        lambda: admin.explain(mistyped),
        lambda why: f"{why.verdict}: {why.detail}\n{why.hint}",
    )
    does(
        "alice, admin",
        f"explain('{widget.masked_key}', origin='{SITE}')",
        lambda: admin.explain(public, origin=SITE),
        lambda why: f"{why.verdict}: {why.detail}\n{why.hint}",
    )


def revive(stack: Stack, admin_client: Client, key_id: Any) -> None:
    """Try to bring a revoked key back, in five ways."""
    service_client = create_client(stack.url, stack.service_key)

    def patch(caller: Client) -> Any:
        table = caller.schema("keylatch").table("keys")
        return table.update({"revoked_at": None}).eq("id", str(key_id)).execute()

    is_refused(
        "alice, admin",
        "PATCH keys {revoked_at: null}",
        lambda: patch(admin_client),
        "revoked_is_final",
    )
    is_refused(
        "service_role",
        "PATCH keys {revoked_at: null}",
        lambda: patch(service_client),
        "revoked_is_final",
    )
    clear = "update keylatch_internal.keys set revoked_at = null where id = %s"
    with psycopg.connect(stack.database_url, autocommit=True) as owner:
        is_refused(
            "table owner",
            "update … set revoked_at = null",
            lambda: owner.execute(clear, [key_id]),
            "revoked_is_final",
        )
    with psycopg.connect(stack.database.superuser_url, autocommit=True) as superuser:
        superuser.execute("set session_replication_role = replica")
        is_refused(
            "superuser",
            "as replication role: update … set revoked_at = null",
            lambda: superuser.execute(clear, [key_id]),
            "revoked_is_final",
        )
        is_refused(
            "superuser",
            "delete from …, to insert it again unrevoked",
            lambda: superuser.execute("delete from keylatch_internal.keys"),
            "keys_are_kept",
        )


def draw(path: Path) -> None:
    """Draw what the console recorded, without the fonts that Rich's SVG downloads."""
    fonts = re.compile(r"\s*@font-face \{\{.*?\n    \}\}", re.DOTALL)
    form = fonts.sub("", CONSOLE_SVG_FORMAT).replace("Fira Code, monospace", "monospace")
    drawn = console.export_svg(title="make demo", code_format=form, unique_id="keylatch")
    path.write_text("".join(f"{line.rstrip()}\n" for line in drawn.splitlines()), "utf-8")


def main() -> int:
    """Start the stack, run the demo, stop the stack."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--audit", action="store_true", help="then ask all questions of sql/audit")
    parser.add_argument("--picture", type=Path, help="draw parts of the story into this SVG file")
    options = parser.parse_args()
    if options.picture:
        console.width = 84
    began = time.monotonic()
    waiting = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )
    with waiting:
        waiting.add_task("PostgreSQL, supabase db push, PostgREST")
        stack = Stack()
    with stack:
        version = stack.server.version
        console.print(
            Panel.fit(
                f"[bold]keylatch[/bold]: keys that the database guards\n"
                f"[dim]PostgreSQL {version}, the migrations by supabase db push, PostgREST"
                f"\nstarted in {time.monotonic() - began:.1f} s[/dim]"
            )
        )
        try:
            story(stack)
        except (Unexpected, KeylatchError) as error:
            console.print(f"\n[bold red]Not as told:[/bold red] {error}")
            return 1
        if options.picture:
            draw(options.picture)
        if options.audit:
            chapter("What an auditor asks of this database")
            ask(stack.database_url)
    console.print(
        f"\nAll as told, in {time.monotonic() - began:.1f} s. "
        "Next: [bold]make test[/bold], or [bold]make up[/bold] for a stack of your own."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
