"""Errors before there is a connection: each has its own message and next step."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cli.program import Program
from stack import Janitor, Server
from stack.pooler import Pooler

pytestmark = pytest.mark.one_server

# PostgreSQL says that a role does not exist only to a client that needs no password.
_RULES = """
host all supabase_admin,postgres 127.0.0.1/32 md5
host all ghost 127.0.0.1/32 trust
hostssl all encrypted 127.0.0.1/32 md5
"""


@pytest.fixture(scope="module")
def guarded(janitor: Janitor) -> Iterator[Server]:
    """A server without SSL that accepts only the users in `_RULES`."""
    with Server(janitor=janitor) as server:
        rules = server.directory / "data" / "pg_hba.conf"
        rules.write_text(_RULES)
        server.restart()
        yield server


def url(server: Server, user: str, database: str = "postgres", **options: str) -> str:
    """Return a URL of the server. The password matters only if the server asks for it."""
    password = server.passwords.get(user, "hunter2")
    given = "&".join(f"{name}={value}" for name, value in options.items())
    return f"postgresql://{user}:{password}@127.0.0.1:{server.port}/{database}?{given}"


def refused(program: Program, address: str, *, code: int) -> tuple[str, str]:
    """Run a command that cannot connect, and return the lines of its error and its hint."""
    there = program.having(DATABASE_URL=address)
    said = there("list", "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa", code=code).err
    assert "hunter2" not in said
    detail, hint = said.splitlines()[:2]
    return detail, hint


def test_a_role_that_does_not_exist_is_named_with_the_sql_that_makes_it(
    program: Program, guarded: Server
) -> None:
    detail, hint = refused(program, url(guarded, "ghost"), code=3)
    assert detail == "permission_denied: the role ghost does not exist on this server"
    assert hint.endswith("run in SQL: create role ghost login;")


def test_a_database_that_does_not_exist_is_named(program: Program, guarded: Server) -> None:
    detail, hint = refused(program, url(guarded, "postgres", "nope"), code=4)
    assert detail == "unavailable: the database nope does not exist on this server"
    assert "psql --list" in hint


@pytest.mark.parametrize("mode", ["disable", "prefer"])
def test_a_user_who_needs_ssl_is_told_the_option(
    program: Program, guarded: Server, mode: str
) -> None:
    detail, hint = refused(program, url(guarded, "encrypted", sslmode=mode), code=3)
    assert "only SSL connections" in detail
    assert "?sslmode=require" in hint


def test_a_server_without_ssl_is_said_to_have_none(program: Program, guarded: Server) -> None:
    detail, hint = refused(program, url(guarded, "postgres", sslmode="require"), code=4)
    assert "the server has no SSL" in detail
    assert "sslmode=disable" in hint


def test_a_pooler_that_requires_ssl_is_told_from_one_that_does_not_answer(
    program: Program, guarded: Server, janitor: Janitor
) -> None:
    with Pooler(guarded, janitor=janitor, certificate=certificate()) as pooler:
        there = pooler.url(url(guarded, "postgres", sslmode="disable"))
        detail, hint = refused(program, there, code=3)
        assert "only SSL connections" in detail
        assert "?sslmode=require" in hint


def test_a_user_whom_pg_hba_does_not_know_is_told_to_add_a_line(
    program: Program, janitor: Janitor
) -> None:
    with Server(janitor=janitor) as server:
        data = server.directory / "data"
        for name, text in certificate().items():
            path = data / f"server.{name}"
            path.touch(mode=0o600)
            path.write_bytes(text)
            if server.user is not None:
                shutil.chown(path, server.user, server.group)
        rules = "hostnossl all supabase_admin 127.0.0.1/32 md5\n"
        (data / "pg_hba.conf").write_text(rules)
        with (data / "postgresql.conf").open("a") as file:
            file.write("ssl = on\nssl_cert_file = 'server.cert'\nssl_key_file = 'server.key'\n")
        server.restart()
        detail, hint = refused(program, url(server, "postgres", sslmode="require"), code=3)
    assert "does not allow this user from this address" in detail
    assert "pg_hba.conf" in hint


def certificate() -> dict[str, bytes]:
    """Return a private key, and its self-signed certificate for 127.0.0.1."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    cert = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return {"key": private, "cert": cert.public_bytes(pem)}
