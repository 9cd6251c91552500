"""The keys of thirty systems: a dump of each comes over by its preset, and its real keys work.

Each dump is made as the system itself makes it; where the library is there, by the library. What
each preset is known from stands in the preset. The table of the guide is made of this list.
"""

import base64
import csv
import hashlib
import hmac
import io
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import bcrypt
import psycopg
import pytest

from cli.program import Program
from cli.world import World
from keylatch_cli.importing import presets
from stack import HANG_SECONDS, Cluster, Database, People
from stack.tools import ROOT

pytestmark = pytest.mark.one_server

A = str(People.a)
PEPPER = "the secret of the old application, 32 bytes"
GUIDE = ROOT / "sql" / "docs" / "legacy_keys.md"
NOW, FIRST, NEVER = "resolves", "resolves after first use", "refused"


@dataclass(frozen=True)
class System:
    """A row of a system's table, and the key as its holder has it.

    Attributes:
        key: The key.
        row: The row, as the system's own dump has it.
        becomes: What becomes of the key.
        secret: What the database knows the secret of the system by; empty for none.
        pepper: That secret.
        owner: What the row names the tenant by; empty if it names none.
        needs_workspace: Whether the first use must name the workspace.
    """

    key: str
    row: Mapping[str, object]
    becomes: str = NOW
    secret: str = ""
    pepper: str = PEPPER
    owner: str = "42"
    needs_workspace: bool = False


def sha(name: str, text: str | bytes) -> bytes:
    given = text.encode() if isinstance(text, str) else text
    return hashlib.new(name, given).digest()


def b64(given: bytes) -> str:
    return base64.b64encode(given).decode()


def url64(given: bytes) -> str:
    return base64.urlsafe_b64encode(given).decode().rstrip("=")


def crypted(key: str) -> str:
    return bcrypt.hashpw(key.encode(), bcrypt.gensalt(4)).decode()


def django(key: str, salt: str, rounds: int) -> str:
    kept = hashlib.pbkdf2_hmac("sha256", key.encode(), salt.encode(), rounds)
    return f"pbkdf2_sha256${rounds}${salt}${b64(kept)}"


HEX = secrets.token_hex(32)
WORD = secrets.token_urlsafe(33)[:40]
SEEN = "2026-03-01 09:30:00"


def sanctum() -> System:
    return System(
        key=f"12|{WORD}",
        row={
            "id": 12,
            "tokenable_type": "App\\Models\\User",
            "tokenable_id": 42,
            "name": "the shop",
            "token": sha("sha256", WORD).hex(),
            "abilities": '["orders:read", "*"]',
            "last_used_at": SEEN,
            "expires_at": "",
            "created_at": SEEN,
            "updated_at": SEEN,
        },
    )


def passport() -> System:
    row = {"id": 3, "user_id": 42, "name": "a client", "secret": crypted(WORD), "revoked": "f"}
    return System(key=WORD, row=row, becomes=FIRST, needs_workspace=True)


def knox() -> System:
    # knox/crypto.py: hashlib's SHA-512 of the bytes that the token is the hex of was version 3;
    # from 4 on of its characters.
    return System(
        key=HEX,
        row={
            "digest": sha("sha512", HEX).hex(),
            "token_key": HEX[:15],
            "created": "2026-03-01 09:30:00.123456+00",
            "expiry": "2099-01-01 00:00:00+00",
            "user_id": 42,
        },
    )


def api_key(version: int) -> System:
    prefix = secrets.token_hex(4)
    key = f"{prefix}.{secrets.token_hex(16)}"
    kept = f"sha512$${sha('sha512', key).hex()}" if version == 3 else django(key, "salt1", 1000)
    row = {
        "id": f"{prefix}.{kept}",
        "created": SEEN,
        "name": "a partner",
        "revoked": "f",
        "expiry_date": "",
        "hashed_key": kept,
        "prefix": prefix,
    }
    return System(key=key, row=row, owner="", becomes=NOW if version == 3 else FIRST)


def gitea() -> System:
    key, salt = secrets.token_hex(20), "sAlT012345"
    # models/auth/access_token.go: PBKDF2 of 50 bytes, 10,000 rounds.
    kept = hashlib.pbkdf2_hmac("sha256", key.encode(), salt.encode(), 10_000, 50).hex()
    row = {
        "id": 1,
        "uid": 42,
        "name": "ci",
        "token_hash": kept,
        "token_salt": salt,
        "token_last_eight": key[-8:],
        "scope": "read:repository,write:issue",
        "created_unix": 1772357400,
        "updated_unix": 1772357400,
    }
    return System(key=key, row=row, becomes=FIRST)


def sentry() -> System:
    key = f"sntryu_{HEX}"
    row = {
        "user_id": 42,
        "token": "",
        "hashed_token": sha("sha256", key).hex(),
        "scope_list": "{org:read,project:write}",
        "expires_at": "",
        "date_added": "2026-03-01 09:30:00.1234567+00",
    }
    return System(key=key, row=row)


def posthog(kept: str, key: str, becomes: str) -> System:
    row = {
        "user_id": 42,
        "label": "mine",
        "mask_value": f"{key[:4]}...{key[-4:]}",
        "secure_value": kept,
        "scopes": "{feature_flag:read,*}",
        "created_at": "2026-03-01 09:30:00+00",
    }
    return System(key=key, row=row, becomes=becomes)


def strapi() -> System:
    key = secrets.token_hex(128)
    kept = hmac.new(PEPPER.encode(), key.encode(), "sha512").hexdigest()
    row = {
        "id": 1,
        "name": "site",
        "access_key": kept,
        "last_used_at": 1772357400123,
        "expires_at": "",
        "created_at": 1772357400123,
    }
    return System(key=key, row=row, secret="strapi", owner="")


def langfuse() -> System:
    key, pepper = f"sk-lf-{uuid4()}", sha("sha256", PEPPER).hex()
    row = {
        "id": "cl0",
        "created_at": "2026-03-01 09:30:00.123",
        "note": "prod",
        "hashed_secret_key": f"unused:{uuid4()}",
        "fast_hashed_secret_key": sha("sha256", key + pepper).hex(),
        "display_secret_key": f"{key[:6]}...{key[-4:]}",
        "project_id": "clproject0",
    }
    return System(key=key, row=row, secret="langfuse", pepper=pepper, owner="clproject0")


def phoenix() -> System:
    token = secrets.token_bytes(32)
    row = {
        "id": 1,
        "user_id": 42,
        "token": f"\\x{sha('sha256', token).hex()}",
        "context": "api-token",
        "inserted_at": SEEN,
    }
    return System(key=url64(token), row=row)


def identityserver() -> System:
    handle = secrets.token_hex(32).upper()
    row = {
        "Key": b64(sha("sha256", f"{handle}:reference_token")),
        "Type": "reference_token",
        "ClientId": "42",
        "CreationTime": "2026-03-01 09:30:00.1234567",
        "Expiration": "2099-01-01 00:00:00.0000000",
    }
    return System(key=handle, row=row)


def rails() -> System:
    kept = hmac.new(PEPPER.encode(), WORD.encode(), "sha256").hexdigest()
    row = {"id": 1, "bearer_id": 42, "token_digest": kept, "created_at": f"{SEEN}.123456"}
    return System(key=WORD, row=row, secret="rails")


def keyhippo() -> System:
    part = sha("sha512", secrets.token_bytes(64)).hex()
    row = {
        "id": str(uuid4()),
        "user_id": A,
        "description": "primary",
        "is_revoked": "f",
        "expires_at": "2126-03-01 09:30:00+00",
        "key_hash": sha("sha512", part).hex(),
    }
    return System(key=b64(secrets.token_bytes(24)) + part, row=row, owner="")


def simple(key: str, kept: object, **row: object) -> System:
    return System(key=key, row={"hash": kept, "user_id": 42, **row})


def systems() -> dict[str, Callable[[], System]]:
    phx, mb, sk = f"phx_{WORD}", f"mb_{b64(sha('sha256', HEX))}", f"sk-{WORD[:22]}"
    gl, cal = f"glpat-{WORD[:20]}", f"cal_{HEX[:32]}"
    return {
        "laravel-sanctum": sanctum,
        "passport": passport,
        "django-rest-knox": knox,
        "drf-authtoken": lambda: System(
            key=HEX[:40], row={"key": HEX[:40], "created": SEEN, "user_id": 42}
        ),
        "djangorestframework-api-key": lambda: api_key(3),
        "unkey": lambda: System(
            key=f"uk_{WORD}",
            row={
                "id": "key_1",
                "hash": b64(sha("sha256", f"uk_{WORD}")),
                "start": "uk_abc",
                "workspace_id": "42",
                "for_workspace_id": "",
                "enabled": 1,
                "created_at_m": 1772357400123,
                "deleted_at_m": "",
            },
        ),
        "better-auth": lambda: System(
            key=WORD,
            row={
                "id": "1",
                "name": "n",
                "key": url64(sha("sha256", WORD)),
                "userId": "42",
                "enabled": "true",
                "expiresAt": "",
                "createdAt": "2026-03-01T09:30:00.000Z",
            },
        ),
        "gitea": gitea,
        "grafana": lambda: System(key="glsa_x", row={"key": "00"}, becomes=NEVER),
        "sentry": sentry,
        "posthog": lambda: posthog(f"sha256${sha('sha256', phx).hex()}", phx, NOW),
        "strapi": strapi,
        "langfuse": langfuse,
        "litellm": lambda: System(
            key=sk,
            row={
                "token": sha("sha256", sk).hex(),
                "key_name": f"sk-...{sk[-4:]}",
                "key_alias": "team",
                "user_id": "42",
                "expires": "2099-01-01 00:00:00",
                "blocked": "",
            },
        ),
        "cal.com": lambda: System(
            key=cal,
            row={
                "id": "c1",
                "userId": 42,
                "note": "n",
                "hashedKey": sha("sha256", HEX[:32]).hex(),
                "createdAt": f"{SEEN}.123",
                "expiresAt": "",
            },
        ),
        "plausible": lambda: System(
            key=WORD,
            row={
                "id": 1,
                "user_id": 42,
                "name": "n",
                "key_prefix": WORD[:6],
                "key_hash": sha("sha256", PEPPER + WORD).hex(),
                "scopes": "{stats:read:*}",
                "inserted_at": SEEN,
            },
            secret="plausible",
        ),
        "phoenix": phoenix,
        "identityserver": identityserver,
        "rails-hmac": rails,
        "supabase-digest": lambda: simple(WORD, f"\\x{sha('sha256', WORD).hex()}", is_active="t"),
        "supabase-crypt": lambda: System(
            key=WORD,
            row={"key_hash": crypted(WORD), "key_prefix": WORD[:8], "user_id": 42},
            becomes=FIRST,
        ),
        "keyhippo": keyhippo,
        "gitlab": lambda: System(
            key=gl,
            row={
                "user_id": 42,
                "name": "n",
                "revoked": "f",
                "expires_at": "2099-01-01",
                "token_digest": b64(sha("sha256", gl + PEPPER)),
            },
            secret="gitlab",
        ),
        "discourse": lambda: System(
            key=HEX,
            row={"key_hash": sha("sha256", HEX).hex(), "truncated_key": HEX[:4], "user_id": 42},
        ),
        "doorkeeper": lambda: System(
            key=WORD,
            row={
                "application_id": 42,
                "token": sha("sha256", WORD).hex(),
                "scopes": "read write",
                "expires_in": 3_000_000_000,
                "created_at": SEEN,
            },
        ),
        "metabase": lambda: System(
            key=mb,
            row={"id": 1, "user_id": 42, "key": crypted(mb), "key_prefix": mb[:7], "name": "n"},
            becomes=FIRST,
        ),
        "documenso": lambda: System(
            key=f"api_{WORD[:16]}",
            row={"token": sha("sha512", f"api_{WORD[:16]}").hex(), "userId": 42, "name": "n"},
        ),
        "md5": lambda: simple(WORD, sha("md5", WORD).hex(), active=1),
        "salted-sha256": lambda: System(
            key=WORD,
            row={
                "hash": sha("sha256", f"{WORD}pinch of salt").hex(),
                "salt": "pinch of salt",
                "user_id": 42,
            },
            becomes=FIRST,
            needs_workspace=True,
        ),
        "infisical": lambda: System(key="st.x.y", row={"secretHash": "$2b$"}, becomes=NEVER),
    }


OTHER_FORMS: dict[str, tuple[str, Callable[[], System]]] = {
    "version 2": ("djangorestframework-api-key", lambda: api_key(2)),
    "before 2024": (
        "posthog",
        lambda: posthog(
            django(f"phx_{WORD}", "posthog_personal_api_key", 260_000), f"phx_{WORD}", FIRST
        ),
    ),
}


@pytest.fixture
def server_world(server: Cluster, template: str, people: People) -> Iterator[World]:
    """A database of one's own: an installation has at most eight schemes."""
    with Database(server, f"system_{secrets.token_hex(4)}", template) as database:
        people.seed(database.url)
        yield World(database, None, people)  # type: ignore[arg-type]


@dataclass
class Old:
    """The world of one system: its secret is there, and its tenant is mapped."""

    world: World
    service: Program
    connection: psycopg.Connection[object]
    system: System
    options: list[str] = field(default_factory=list)


@pytest.fixture
def old(server_world: World, program: Program) -> Iterator[Callable[[System], Old]]:
    service = server_world.acting_as(program, "database", "service")
    with psycopg.connect(server_world.database.url, autocommit=True) as connection:

        def begin(system: System) -> Old:
            if system.secret:
                connection.execute(
                    "insert into keylatch_internal.legacy_secrets (name, secret) values (%s, %s)",
                    [system.secret, system.pepper],
                )
            text = io.StringIO()
            rows = csv.DictWriter(text, list(system.row))
            rows.writeheader()
            rows.writerow(system.row)
            (program.directory / "dump.csv").write_text(text.getvalue())
            (program.directory / "tenants.csv").write_text(f"name,id\n{system.owner},{A}\n")
            options = (
                ["--workspace-map", "tenants.csv"]
                if system.owner
                else ["--set", f"workspace_id={A}"]
            )
            return Old(server_world, service, connection, system, options)

        yield begin


def found(old: Old, key: str) -> str:
    """What becomes of a text: resolves, resolves after first use, or refused."""
    ask = "select key_id from keylatch.resolve_key(%s)"
    if old.connection.execute(ask, [key]).fetchone():
        return NOW
    workspace = ["--workspace", A] if old.system.needs_workspace else []
    old.service("upgrade", *workspace, stdin=key, code=None)
    return FIRST if old.connection.execute(ask, [key]).fetchone() else NEVER


def check(old: Old, name: str) -> None:
    system = old.system
    if system.becomes == NEVER:
        done = old.service("import", "dump.csv", "--from", name, code=1)
        assert done.err.startswith("not_importable: ")
        assert "Issue new keys" in done.err
        return
    done = old.service("import", "dump.csv", "--from", name, *old.options)
    word = "1 imported" if system.becomes == NOW else "1 waiting for their first use"
    assert word in done.err, done
    assert found(old, f"{system.key[:-2]}~{system.key[-1]}") == NEVER
    assert found(old, system.key) == system.becomes
    again = old.service("import", "dump.csv", "--from", name, *old.options)
    assert "1 unchanged" in again.err
    kept = old.connection.execute("select workspace_id::text from keylatch.keys").fetchall()
    assert {row[0] for row in kept} == {A}  # type: ignore[index]


@pytest.mark.parametrize("name", systems())
def test_the_keys_of_a_system_come_over_by_its_preset(
    old: Callable[[System], Old], name: str
) -> None:
    check(old(systems()[name]()), name)


@pytest.mark.parametrize("form", OTHER_FORMS)
def test_the_older_form_of_a_hash_comes_over_too(old: Callable[[System], Old], form: str) -> None:
    name, make = OTHER_FORMS[form]
    check(old(make()), name)


@pytest.fixture(scope="session")
def made_by_django() -> dict[str, tuple[str, str]]:
    script = ROOT / "tests" / "cli" / "django_systems.py"
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=True, timeout=HANG_SECONDS
    )
    return json.loads(done.stdout)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "name", ["django-rest-knox", "drf-authtoken", "djangorestframework-api-key"]
)
def test_a_dump_that_the_library_itself_made_comes_over(
    old: Callable[[System], Old], made_by_django: Mapping[str, tuple[str, str]], name: str
) -> None:
    key, dump = made_by_django[name]
    (row,) = csv.DictReader(io.StringIO(dump))
    check(old(System(key=key, row=row, owner="42" if "user_id" in row else "")), name)


def test_every_preset_is_tried_here_and_told_in_80_columns(program: Program) -> None:
    assert sorted(systems()) == presets.names()
    listed = program("import", "--presets").out
    assert max(map(len, listed.splitlines())) <= 80
    for name in presets.names():
        preset = presets.load(name)
        assert f"\n{name} " in f"\n{listed}"
        assert preset.system in listed
        assert preset.about
        assert preset.presented
    assert [one["name"] for one in program.ok("import", "--presets")] == presets.names()


BEGIN, END = "<!-- systems -->\n", "<!-- end of systems -->\n"


def table() -> str:
    rows = ["| `--from` | system, and its table | a key | it |", "|---|---|---|---|"]
    for name, make in systems().items():
        preset, system = presets.load(name), make()
        needs = " (name its workspace)" if system.needs_workspace else ""
        secret = f"; secret `{system.secret}`" if system.secret else ""
        why = f": {preset.refused}" if preset.refused else ""
        rows.append(
            f"| {name} | {preset.system}: `{preset.table}` | {preset.presented}"
            f" | {system.becomes}{needs}{secret}{why} |".replace("12|", "12\\|")
        )
    return "\n".join(rows) + "\n"


def test_the_table_of_the_guide_is_what_was_tried_here() -> None:
    page = Path(GUIDE).read_text("utf-8")
    before, _, rest = page.partition(BEGIN)
    now, _, after = rest.partition(END)
    if os.environ.get("KEYLATCH_WRITE"):
        Path(GUIDE).write_text(before + BEGIN + table() + END + after, "utf-8")
        return
    assert now == table()
    refused = [name for name, make in systems().items() if make().becomes == NEVER]
    assert len(systems()) == 30
    assert len(refused) <= 4
