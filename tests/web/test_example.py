"""The example in the docstring of `keylatch.fastapi` runs unchanged."""

import signal
import sys
import textwrap
from pathlib import Path

import httpx
import pytest

import keylatch.fastapi
from stack import Janitor, People, Rest, Tokens, until
from stack.ports import free_port

pytestmark = pytest.mark.one_server

SHOP = "https://shop.example"


def test_the_example_runs(upstream: Rest, tokens: Tokens, janitor: Janitor, tmp_path: Path) -> None:
    text = keylatch.fastapi.__doc__ or ""
    code = "\n".join(line for line in text.splitlines() if line.startswith("    ") or not line)
    (tmp_path / "main.py").write_text(textwrap.dedent(code))
    port = free_port()
    process = janitor.start(
        [sys.executable, "-m", "uvicorn", "main:app", "--app-dir", tmp_path, "--port", str(port)],
        signals=[signal.SIGTERM],
        output=tmp_path / "log",
        environment={
            "SUPABASE_URL": upstream.url,
            "SUPABASE_ANON_KEY": upstream.anon_key,
            "SUPABASE_JWT_SECRET": tokens.secret,
            "RESOLVER_TOKEN": upstream.token(role="keylatch_resolver"),
        },
    )
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as site:

        def is_up() -> bool:
            assert process.poll() is None, (tmp_path / "log").read_text()
            return b"running on" in (tmp_path / "log").read_bytes()

        until(is_up)

        admin = {"Authorization": f"Bearer {upstream.token(People.alice)}"}
        shop = {"workspace_id": str(People.a), "allowed_origins": [SHOP]}
        issued = site.post("/widget-keys", json=shop, headers=admin).json()
        presented = {"key": issued["key"]}
        answer = site.post("/widget/keys/resolve", json=presented, headers={"Origin": SHOP})
        assert answer.json() == {"environment": "live"}

        server = {"workspace_id": str(People.a), "kind": "secret", "scopes": ["orders:read"]}
        secret = str(site.post("/widget-keys", json=server, headers=admin).json()["key"])
        assert site.get("/orders").status_code == 401
        answer = site.get("/orders", headers={"x-api-key": secret})
        assert answer.json() == {"workspace": str(People.a)}

        answer = site.get("/reports", headers={"x-api-key": secret})
        assert answer.json() == {"workspace": str(People.a)}
        assert site.get("/reports", headers=admin).json() == {"user": str(People.alice)}
        anon = {"Authorization": f"Bearer {upstream.anon_key}"}
        assert site.get("/reports", headers=anon).status_code == 401
    janitor.end(process)
    log = (tmp_path / "log").read_text()
    assert "Application shutdown complete" in log
    assert "Traceback" not in log
    assert secret not in log
