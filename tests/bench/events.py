"""`make bench WHAT=events`: what the log of events costs, and whether it survives `kill -9`.

Sessions issue and revoke keys with and without events, in turns, on a server with fsync. The result
is the ratio, because absolute figures mean little on a shared machine. Then a workspace of 100,000
keys is deleted, and a million events are sealed and verified in bounded calls over HTTP. Last,
`kill -9` ends the sealing process, and then the whole server, while sessions write. After each
kill, sealing continues and the chain is verified.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psycopg
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from stack import Database, Server, Tokens
from stack.database import make_template
from stack.janitor import Janitor
from stack.modules import migrations
from stack.postgrest import PostgREST
from stack.tools import ROOT

SESSIONS = 8
SCRIPT = ROOT / "sql" / "bench" / "issue_and_revoke.sql"
# As on a production server.
SETTINGS = {"fsync": "on", "full_page_writes": "on", "max_wal_size": "1GB"}
# The triggers that record events, and `always` for those that are enabled always.
TRIGGERS = {
    "keys_insert_record_events": "",
    "keys_update_record_events": "always",
    "keys_update_record_revocations": "always",
}
KEYS = 100_000
MANY = """
insert into keylatch_internal.key_events (
  workspace_id, key_id, event, occurred_at, role, login, address, agent, changes
)
select %s, gen_random_uuid(), 'changed', clock_timestamp(), 'authenticated', 'authenticator',
  '203.0.113.7', 'python-httpx/0.28.1', '{"label": {"old": "before", "new": "after"}}'
from generate_series(1, %s)
"""
CASES = {"8 sessions, 8 workspaces": (8, 1), "8 sessions, 1 workspace": (8, 0), "1 session": (1, 1)}


def workspace(number: int) -> UUID:
    """The workspace of a session; the pgbench script uses the same id."""
    return UUID(f"00000000-0000-4000-8000-{number:012}")


def pgbench(database: Database, sessions: int, spread: int, seconds: float) -> list[str]:
    """The pgbench command with which these sessions issue and revoke keys."""
    server = database.server
    return [
        *("pgbench", "--no-vacuum", f"--client={sessions}", "--jobs=1"),
        *(f"--time={seconds:.0f}", f"--define=spread={spread}", f"--file={SCRIPT}"),
        *("--host", server.host, "--port", str(server.port), "--username=postgres", database.name),
    ]


def run(database: Database, sessions: int, spread: int, seconds: float) -> float:
    """The number of keys that all sessions together issue and revoke a second."""
    done = subprocess.run(
        pgbench(database, sessions, spread, seconds),
        capture_output=True,
        text=True,
        check=True,
        env=_environment(database),
    )
    found = re.search(r"tps = ([\d.]+)", done.stdout)
    assert found is not None, done.stdout
    return float(found[1])


def switch(database: Database, *, on: bool) -> None:
    """Turn the recording of events on or off; only the owner can do this."""
    with psycopg.connect(database.url) as owner:
        for name, how in TRIGGERS.items():
            word = f"enable {how}" if on else "disable"
            owner.execute(f"alter table keylatch_internal.keys {word} trigger {name}".encode())


class Service:
    """The calls of a timer over HTTP, made with the service key and timed."""

    def __init__(self, url: str, key: str) -> None:
        headers = {"Authorization": f"Bearer {key}", "Content-Profile": "keylatch"}
        self._client = httpx.Client(base_url=url, headers=headers, timeout=120)
        self.calls, self.longest, self.seconds = 0, 0.0, 0.0

    def call(self, name: str, **arguments: object) -> dict[str, Any]:
        """Call a function, and add its time to the counts."""
        began = time.perf_counter()
        answer = self._client.post(f"/rpc/{name}", json=arguments)
        took = time.perf_counter() - began
        assert answer.status_code == 200, answer.text
        self.calls, self.seconds = self.calls + 1, self.seconds + took
        self.longest = max(self.longest, took)
        result: dict[str, Any] = answer.json()
        return result

    def took(self) -> str:
        """Describe the number and the time of the calls since the last `took`, and reset both."""
        said = f"{self.calls} calls, the longest {self.longest:.2f} s, {self.seconds:.0f} s in all"
        self.calls, self.longest, self.seconds = 0, 0.0, 0.0
        return said

    def seal(self) -> None:
        """Seal all events."""
        while not self.call("seal_events")["is_done"]:
            pass

    def verify(self) -> tuple[int, int]:
        """Check that all events are sealed and intact; count the checkpoints and events."""
        checkpoints, events = 0, 0
        start: int | None = 1
        while start is not None:
            found = self.call("verify_events", from_checkpoint=start)
            assert found["is_intact"], found
            assert found["unsealed"] == 0, found
            checkpoints += found["checkpoints"]
            events += found["events"]
            start = found["next_checkpoint"]
        return checkpoints, events


def memory(database: Database) -> float:
    """The highest private memory of any PostgreSQL process that serves the API, in MB."""
    with psycopg.connect(database.superuser_url) as watcher:
        pids = watcher.execute(
            "select pid from pg_stat_activity where usename = 'authenticator'"
        ).fetchall()
    most = 0
    for (pid,) in pids:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.endswith(" kB")}
        most = max(most, sizes["VmHWM"] - sizes["RssShmem"])
    return most / 1024


def fill(database: Database, count: int) -> None:
    """Insert this many events into the log; only the owner can do this."""
    with psycopg.connect(database.url) as owner:
        for word in ("disable", "enable"):
            owner.execute(
                f"alter table keylatch_internal.key_events {word} trigger key_events_insert_keep"
            )
            if word == "disable":
                owner.execute(MANY, [workspace(0), count])


def delete_workspace(database: Database) -> float:
    """The seconds that the deletion of a workspace with 100,000 keys takes."""
    with psycopg.connect(database.url, autocommit=True) as owner:
        owner.execute("insert into keylatch.workspaces (id, name) values (%s, 'x')", [workspace(9)])
        owner.execute(
            "insert into keylatch_internal.keys (workspace_id, kind)"
            " select %s, 'secret' from generate_series(1, %s)",
            [workspace(9), KEYS],
        )
        began = time.perf_counter()
        owner.execute("delete from keylatch.workspaces where id = %s", [workspace(9)])
        return time.perf_counter() - began


def calls(database: Database, turns: int) -> dict[str, float]:
    """The median microseconds of issue_key and of revoke_key, in one session."""
    took: dict[str, list[float]] = {"issue_key": [], "revoke_key": []}
    with psycopg.connect(database.url, autocommit=True) as owner:
        for _ in range(turns):
            began = time.perf_counter()
            row = owner.execute(
                "select id from keylatch.issue_key(%s, 'secret')", [workspace(0)]
            ).fetchone()
            issued = time.perf_counter()
            owner.execute("select keylatch.revoke_key(%s, 'bench')", row)
            took["issue_key"].append(issued - began)
            took["revoke_key"].append(time.perf_counter() - issued)
    return {name: statistics.median(times) * 1e6 for name, times in took.items()}


def kill_while_sealing(server: Server, database: Database, *, is_postmaster: bool) -> None:
    """Kill the sealing process, or the server, while sessions write; wait for the restart."""
    load = subprocess.Popen(
        pgbench(database, SESSIONS, 1, 60),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=_environment(database),
    )
    sealer = psycopg.connect(database.url, autocommit=True)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(sealer.execute, "select from keylatch.seal_events(100000)")
        time.sleep(0.5)  # sealing this many events takes seconds
        assert not call.done()
        os.kill(server.pid if is_postmaster else sealer.info.backend_pid, signal.SIGKILL)
        call.exception()
    load.wait(timeout=60)
    if is_postmaster:
        server.stop()
    for attempt in range(30):
        try:
            if is_postmaster:
                server.start()
            psycopg.connect(database.url).close()
            return
        except (RuntimeError, psycopg.OperationalError):
            # The old processes still hold the shared memory, or the server still recovers.
            if attempt == 29:
                raise
            time.sleep(1)


def _environment(database: Database) -> dict[str, str]:
    return {**os.environ, "PGPASSWORD": database.server.passwords["postgres"]}


def main(arguments: list[str]) -> int:
    """Measure, print the table, kill processes and verify the chain."""
    parser = argparse.ArgumentParser(prog="make bench WHAT=events")
    parser.add_argument("--seconds", type=float, default=30, help="of writing for each case")
    parser.add_argument("--events", type=int, default=1_000_000, help="to seal and verify")
    options = parser.parse_args(arguments)
    rounds, console = 6, Console(highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("", "with", "without", "ratio"):
        table.add_column(name, justify="right" if name else "left")
    with (
        Server(settings=SETTINGS) as server,
        Database(
            server, "events", make_template(server, files=migrations("events", tenancy=True))
        ) as database,
    ):
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("issuing and revoking", total=(len(CASES) + 1) * rounds * 2)
            rates: dict[tuple[str, bool], list[float]] = {}
            for turn in range(rounds):
                # Both take turns, so a machine that becomes slower slows down both.
                for on in (True, False) if turn % 2 == 0 else (False, True):
                    switch(database, on=on)
                    for name, (sessions, spread) in CASES.items():
                        seconds = max(options.seconds / rounds / 2, 1)
                        rate = run(database, sessions, spread, seconds)
                        rates.setdefault((name, on), []).append(rate)
                        progress.advance(task)
                    for name, value in calls(database, 150).items():
                        rates.setdefault((name, on), []).append(value)
                    progress.advance(task)
        switch(database, on=True)
        for name in (*CASES, "issue_key", "revoke_key"):
            with_, without = (statistics.median(rates[name, on]) for on in (True, False))
            unit = "keys/s" if name in CASES else "µs"
            ratio = statistics.median(
                one / other
                for one, other in zip(rates[name, True], rates[name, False], strict=True)
            )
            table.add_row(name, f"{with_:.0f} {unit}", f"{without:.0f} {unit}", f"{ratio:.2f}")
        console.print(table)
        console.print(f"deleting a workspace of {KEYS} keys: {delete_workspace(database):.1f} s")
        tokens, janitor = Tokens(), Janitor()
        with PostgREST(database.authenticator_url, tokens.secret, janitor=janitor) as api:
            service = Service(api.url, tokens.service_key)
            fill(database, options.events)
            service.seal()
            console.print(f"sealed over HTTP: {service.took()}; {memory(database):.0f} MB")
            found = "intact: {} checkpoints, {} events"
            console.print(found.format(*service.verify()), end="; ")
            console.print(f"{service.took()}; {memory(database):.0f} MB")
            for is_postmaster, name in ((False, "the sealing process"), (True, "the server")):
                fill(database, 100_000)
                kill_while_sealing(server, database, is_postmaster=is_postmaster)
                service.seal()
                console.print(f"after kill -9 of {name}: " + found.format(*service.verify()))
        janitor.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
