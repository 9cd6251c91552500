"""The stack works like a Supabase project, and leaves nothing behind when it ends."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import psycopg
import pytest

from stack import HANG_SECONDS, Database, Janitor, People, Rest, Server, push_migrations, until
from stack.gateway import Gateway
from stack.ports import free_port
from stack.tools import ROOT, TESTS

pytestmark = pytest.mark.one_server

_RUN = """
import json, signal, time
from stack import Stack
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job's is ignored
stack = Stack()
directories = [str(stack.server.directory), str(stack.rest.postgrest._directory)]
print(json.dumps([stack.server.port, stack.rest.postgrest.port, *directories]), flush=True)
time.sleep(600)
"""


def _state(pid: int | str) -> tuple[str, int] | None:
    """A process's state and parent from /proc (`pid (name) state ppid …`); None if it has ended."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return None
    return state, int(parent)


def _children(pid: int) -> set[int]:
    every = {int(path.name): _state(path.name) for path in Path("/proc").glob("[0-9]*")}
    found = {child for child, state in every.items() if state is not None and state[1] == pid}
    return found.union(*(_children(child) for child in found))


def _runs(pid: int) -> bool:
    state = _state(pid)
    return state is not None and state[0] != "Z"  # a zombie has ended


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_killed_leaves_no_process_port_or_directory(ending: signal.Signals) -> None:
    run = subprocess.Popen([sys.executable, "-c", _RUN], cwd=TESTS, stdout=subprocess.PIPE)
    try:
        assert run.stdout is not None
        server_port, rest_port, *directories = json.loads(run.stdout.readline())
        processes = _children(run.pid)
        assert len(processes) > 5, "PostgreSQL's processes, PostgREST and the janitor"
        assert all(Path(directory).is_dir() for directory in directories)
        run.send_signal(ending)
        run.communicate(timeout=HANG_SECONDS)
    finally:
        run.kill()

    until(lambda: not any(_runs(pid) for pid in processes), "something is still running")
    assert not any(Path(directory).exists() for directory in directories)
    for port in (server_port, rest_port):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_closing_twice_is_harmless_and_a_wrong_order_ends_nothing(tmp_path: Path) -> None:
    janitor = Janitor()
    first, second = janitor.make_directory(), janitor.make_directory()
    janitor.remove_directory(first)
    janitor.remove_directory(first)
    with pytest.raises(RuntimeError, match="end nonsense"):
        janitor._order("end nonsense")
    with pytest.raises(RuntimeError, match="mkdir"):
        janitor._order(f"mkdir {tmp_path / 'missing'}")
    assert second.is_dir() and not first.exists()
    janitor.close()
    janitor.close()
    assert not second.exists()


def test_the_server_does_not_run_as_root(server: Server) -> None:
    assert server.directory.stat().st_uid != 0
    assert (server.directory / "data").stat().st_uid != 0


def test_a_server_comes_back_with_its_data_on_its_port(server: Server) -> None:
    with Server(settings={"work_mem": "5MB"}) as other:
        other.create_database("kept")
        port = other.port
        other.restart()
        with psycopg.connect(other.url("kept")) as connection:
            assert connection.execute("show work_mem").fetchone() == ("5MB",)
        assert other.port == port != server.port
        assert "database system is ready" in other.log()


def test_postgres_owns_the_database_and_is_no_superuser(database: Database) -> None:
    with database.connect() as connection:
        row = connection.execute(
            """
            select current_user::text, rolsuper, rolcreaterole, rolbypassrls,
                   pg_catalog.pg_get_userbyid(datdba)::text
            from pg_catalog.pg_roles, pg_catalog.pg_database
            where rolname = current_user and datname = current_database()
            """
        ).fetchone()
    assert row == ("postgres", False, True, True, "postgres")


def test_the_platform_can_be_installed_again(database: Database) -> None:
    with database.connect(superuser=True) as connection:
        for path in sorted(ROOT.glob("sql/platform/*.sql")):
            connection.execute(path.read_bytes())


def test_postgres_can_make_a_role_and_let_postgrest_take_it(database: Database) -> None:
    with database.connect() as connection:
        connection.execute("create role stack_probe")
        try:
            connection.execute("grant stack_probe to authenticator")
            assert database.connect("stack_probe").execute("select current_user").fetchone() == (
                "stack_probe",
            )
        finally:
            connection.execute("drop role stack_probe")


def test_a_session_with_claims_is_that_user(database: Database, people: People) -> None:
    row = database.connect(claims=people.claims("mia")).execute(
        "select session_user::text, current_user::text, auth.uid(), auth.role()"
    )
    assert row.fetchone() == ("authenticator", "authenticated", people.mia, "authenticated")


@pytest.mark.parametrize("claims", ["", None])
def test_a_session_without_claims_is_nobody(database: Database, claims: str | None) -> None:
    connection = database.connect("anon")
    if claims is not None:
        connection.execute("select set_config('request.jwt.claims', %s, false)", [claims])
    row = connection.execute("select auth.uid(), auth.role(), auth.jwt()").fetchone()
    assert row == (None, None, None)


def test_a_request_without_a_token_is_anon_and_with_one_its_user(
    rest: Rest, people: People
) -> None:
    path = "/workspaces?select=id"
    assert rest.request("GET", path).status_code == 401
    assert rest.request("GET", path, token="nonsense").status_code == 401
    mine = rest.request("GET", path, token=people.token("alice"))
    assert mine.json() == [{"id": str(people.a)}]
    every = rest.request("GET", path, headers={"apikey": rest.service_key})
    assert {row["id"] for row in every.json()} == {str(people.a), str(people.b)}


def test_the_gateway_passes_on_what_it_gets() -> None:
    with _Echo() as echo, Gateway(f"http://127.0.0.1:{echo.port}") as gateway:
        answer = httpx.post(
            f"{gateway.url}/rest/v1/rpc/f?x=%00&y",
            headers=[("Origin", "https://a.example"), ("Origin", "null"), ("apikey", "k")],
            content=iter([b"one", b"two"]),
        )
    head, _, body = answer.text.partition("\r\n\r\n")
    lines = head.lower().split("\r\n")
    assert lines[0] == "post /rpc/f?x=%00&y http/1.1"
    assert [line for line in lines if line.startswith("origin")] == [
        "origin: https://a.example",
        "origin: null",
    ]
    assert "authorization: bearer k" in lines
    assert body == "3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"


def test_the_gateway_turns_a_key_that_is_no_jwt_into_its_role_and_refuses_it_elsewhere() -> None:
    tokens = {"sb_secret_a": "a.secret.token", "sb_publishable_b": "a.public.token"}
    browser = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0"}

    def ask(**headers: str) -> httpx.Response:
        with _Echo() as echo, Gateway(f"http://127.0.0.1:{echo.port}", tokens) as gateway:
            return httpx.post(f"{gateway.url}/rest/v1/", headers=headers, content=iter([b"x"]))

    assert "Bearer a.secret.token" in ask(apikey="sb_secret_a").text
    assert "Bearer a.public.token" in ask(apikey="sb_publishable_b", **browser).text
    user = ask(apikey="sb_secret_a", Authorization="Bearer a.user.token").text
    assert "Bearer a.user.token" in user
    assert "a.secret.token" not in user
    for refused in (
        ask(apikey="sb_secret_a", Authorization="Bearer sb_secret_a"),
        ask(apikey="sb_publishable_b", Authorization="Bearer sb_publishable_b"),
        ask(Authorization="Bearer sb_secret_a"),
        ask(apikey="sb_secret_unknown"),
        ask(apikey="undefined", Authorization="Bearer a.user.token"),
        ask(apikey="sb_secret_a", **browser),
    ):
        assert refused.status_code == 401


def test_the_gateway_says_what_it_cannot_pass_on() -> None:
    with _Echo() as upstream, Gateway(f"http://127.0.0.1:{upstream.port}") as gateway:
        assert httpx.get(f"{gateway.url}/auth/v1/user").status_code == 404
        assert httpx.get(f"{gateway.url}/rest/v11").status_code == 404
        connection = http.client.HTTPConnection(gateway.url.removeprefix("http://"))
        connection.putrequest("POST", "/rest/v1/")
        connection.putheader("Content-Length", "many")
        connection.endheaders()
        assert connection.getresponse().status == 400
        connection.close()
    with Gateway(f"http://127.0.0.1:{free_port()}") as gateway:
        assert httpx.get(f"{gateway.url}/rest/v1/").status_code == 502


def test_up_tells_its_owner_alone_how_to_reach_it_and_down_ends_it(tmp_path: Path) -> None:
    def stack(command: str, code: int = 0) -> str:
        result = subprocess.run(
            [sys.executable, "-m", "stack", command],
            cwd=TESTS,
            env={**os.environ, "KEYLATCH_STATE_DIRECTORY": str(tmp_path)},
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        assert result.returncode == code
        return result.stdout

    assert stack("status", 3) == "down\n"
    text = stack("up")
    try:
        env = dict(line.split("=", 1) for line in text.splitlines())
        assert stack("up") == stack("status") == text
        assert (tmp_path / "env").stat().st_mode & 0o777 == 0o600
        headers = {"apikey": env["SUPABASE_PUBLISHABLE_KEY"], "Accept-Profile": "keylatch"}
        headers["Authorization"] = f"Bearer {env['KEYLATCH_ADMIN_TOKEN']}"
        seen = httpx.get(f"{env['SUPABASE_URL']}/rest/v1/workspaces?select=id", headers=headers)
        assert seen.json() == [{"id": env["KEYLATCH_WORKSPACE_ID"]}]
        psycopg.connect(env["DATABASE_URL"]).close()
    finally:
        stack("down")
    assert stack("status", 3) == "down\n"
    with pytest.raises(httpx.ConnectError):
        httpx.get(env["SUPABASE_URL"])


def test_what_setup_prints_does_not_get_into_the_env_of_make_up(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    for name in ("setup.sh", "package.json", "package-lock.json", ".npmrc"):
        shutil.copy(TESTS / name, tmp_path / "tests")
    # This python3 passes the checks of setup.sh, but makes no virtual environment.
    for name, does in (("npm", "echo added 38 packages; exit 1"), ("python3", '[ "$1" = -c ]')):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{does}\n")
        program.chmod(0o755)
    done = subprocess.run(
        [tmp_path / "tests" / "setup.sh"],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "added 38 packages" in done.stderr


def test_the_cli_does_not_read_the_env_of_the_checkout(
    empty: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The README runs `make up > .env`. An application's .env may also be in the checkout."""
    (tmp_path / "supabase").symlink_to(ROOT / "supabase")
    (tmp_path / ".env").write_text("added 38 packages\n")
    monkeypatch.setattr("stack.supabase.ROOT", tmp_path)
    monkeypatch.setattr("stack.supabase._FILES", tmp_path / "files")
    assert "Finished supabase db push" in push_migrations(empty.url)


class _Echo:
    """A server that answers one request with the request itself, head and body."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def __enter__(self) -> "_Echo":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _serve(self) -> None:
        connection, _ = self._socket.accept()
        with connection:
            got = b""
            while not got.endswith(b"0\r\n\r\n"):
                got += connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(got), got))
