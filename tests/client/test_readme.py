"""The package's README: its Python runs unchanged, and its commands and exit codes are complete."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from client.system import System
from client.vectors import SECRET
from keylatch import Keylatch
from stack import People

pytestmark = pytest.mark.one_server

README = (Path(__file__).parents[2] / "python_client" / "README.md").read_text()


def test_the_python_of_the_readme_runs_as_it_stands(
    system: System, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SUPABASE_URL", system.rest.url)
    monkeypatch.setenv("SUPABASE_KEY", system.rest.service_key)
    monkeypatch.setenv("KEYLATCH_WORKSPACE_ID", str(People.a))
    monkeypatch.setenv("DATABASE_URL", system.database.authenticator_url)
    names: dict[str, Any] = {}
    quickstart, service, cached = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(quickstart, names)  # noqa: S102
    assert "superseded" in capsys.readouterr().out
    exec(service, names)  # noqa: S102
    exec(cached, names)  # noqa: S102

    async def asks(presented: str, origin: str | None) -> str:
        return str(await names["who_is_it"](presented, origin))

    # At its end, the quickstart revokes the rotated key and its successor.
    assert asyncio.run(asks(names["presented"], "https://client.example")) == "401"
    assert asyncio.run(asks(SECRET, None)) == "401"
    admin = Keylatch.from_psycopg(system.owner, claims=system.claims("alice"))
    active = admin.issue(People.a, kind="secret", scopes=["orders:read"])
    found = asyncio.run(asks(active.key.reveal(), None))
    assert found == f"workspace {People.a} with ('orders:read',)"
    assert names["who_are_they"]([active.key.reveal(), names["presented"]]) == [True, False]


def test_the_readme_has_every_command_and_exit_code_of_the_program() -> None:
    import typer

    from keylatch_cli.app import app

    for command in typer.main.get_group(app).commands:
        assert re.search(rf"`{command}`|keylatch {command}", README), command
    documented = re.findall(r"^\| (\d+) \|", README, re.MULTILINE)
    epilog = typer.main.get_group(app).epilog or ""
    assert "130" in documented
    assert documented == re.findall(r"^ *(\d+) ", epilog, re.MULTILINE)
