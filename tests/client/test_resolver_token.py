"""The guide to a token of `keylatch_resolver`: each block runs unchanged."""

import base64
import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from client.system import System
from keylatch import Keylatch
from keylatch.errors import PermissionDenied
from stack import Janitor, People, Rest, Tokens
from stack.tools import ROOT, supabase_cli

pytestmark = pytest.mark.one_server

GUIDE = ROOT / "sql" / "docs" / "resolver_token.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """The guide's blocks by language. They write their files into a temporary directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("SUPABASE_TELEMETRY_DISABLED", "SUPABASE_NO_UPDATE_NOTIFIER", "DO_NOT_TRACK"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("SUPABASE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", f"{supabase_cli().parent}{os.pathsep}{os.environ['PATH']}")
    found: dict[str, list[str]] = {}
    for language, text in BLOCK.findall(GUIDE.read_text("utf-8")):
        found.setdefault(language, []).append(text)
    assert {language: len(texts) for language, texts in found.items()} == {"sh": 2, "python": 4}
    return found


def shell(text: str) -> str:
    done = subprocess.run(["bash", "-ec", text], capture_output=True, text=True, check=True)  # noqa: S607
    return done.stdout.strip()


@contextmanager
def served(system: System, tokens: Tokens, janitor: Janitor, key: dict[str, Any]) -> Iterator[Rest]:
    """Start an API that trusts the public half of a signing key, and the legacy secret."""
    public = {name: value for name, value in key.items() if name != "d"} | {"key_ops": ["verify"]}
    legacy = base64.urlsafe_b64encode(tokens.secret.encode()).decode().rstrip("=")
    trusted = [public, {"kty": "oct", "alg": "HS256", "k": legacy}]
    settings = {"JWT_SECRET": json.dumps({"keys": trusted})}
    with Rest(system.database, tokens, janitor=janitor, settings=settings) as rest:
        yield rest


def test_every_block_of_the_guide_runs(
    system: System,
    tokens: Tokens,
    janitor: Janitor,
    blocks: dict[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_key, sign = blocks["sh"]
    asymmetric, legacy, over_postgrest, over_supabase = blocks["python"]
    assert shell(make_key) == ""
    key = json.loads(Path("signing_key.json").read_text("utf-8"))
    issued = Keylatch.from_psycopg(system.owner, claims=system.claims("alice")).issue(
        People.a, kind="secret"
    )
    monkeypatch.setenv("SUPABASE_JWT_SECRET", tokens.secret)
    with served(system, tokens, janitor, key) as rest:
        monkeypatch.setenv("SUPABASE_URL", rest.url)
        monkeypatch.setenv("SUPABASE_PUBLISHABLE_KEY", rest.publishable_key)
        signed: list[dict[str, Any]] = [{"token": shell(sign)}, {}, {}]
        exec(asymmetric, signed[1])  # noqa: S102
        exec(legacy, signed[2])  # noqa: S102
        for names in signed:
            names["presented"] = issued.key.reveal()
            for use in (over_postgrest, over_supabase):
                names.pop("found", None)
                exec(use, names)  # noqa: S102
                assert names["found"].key_id == issued.id
            assert names["kl"].explain(issued.key).verdict == "valid"
            with pytest.raises(PermissionDenied):
                names["kl"].issue(People.a)


def test_a_token_of_a_key_that_the_project_does_not_know_is_denied(
    system: System,
    tokens: Tokens,
    janitor: Janitor,
    blocks: dict[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shell(blocks["sh"][0])
    known = json.loads(Path("signing_key.json").read_text("utf-8"))
    shell(blocks["sh"][0])
    monkeypatch.setenv("SUPABASE_JWT_SECRET", Tokens().secret)
    with served(system, tokens, janitor, known) as rest:
        monkeypatch.setenv("SUPABASE_URL", rest.url)
        monkeypatch.setenv("SUPABASE_PUBLISHABLE_KEY", rest.publishable_key)
        for make in blocks["python"][:2]:
            names: dict[str, Any] = {"presented": "x"}
            exec(make, names)  # noqa: S102
            with pytest.raises(PermissionDenied):
                exec(blocks["python"][2], names)  # noqa: S102
