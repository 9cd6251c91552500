"""`make bench WHAT=imports`: the time and memory of `keylatch import` of a file of SHA-256 hashes.

Then the benchmark imports the file again with 1 % changes, like the nightly imports of a cutover.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg
from rich.console import Console
from rich.progress import track
from rich.table import Table

from stack import Database, Janitor, Server

BOUND = 20_000
PROGRAM = Path(sys.executable).with_name("keylatch")
WORKSPACES = [f"00000000-0000-4000-8000-{number:012d}" for number in range(100)]


def write(path: Path, rows: int, *, is_next_night: bool = False) -> None:
    """Write a file of `rows` keys, each with the usual fields.

    In the file of the next night, of every 400 keys one is revoked, one is replaced by a new key,
    and two have another label.
    """
    with path.open("w") as file:
        for number in track(range(rows), "writing the file"):
            change = number % 400 if is_next_night else 400
            if change == 1:
                number += rows  # a new key in the place of this one
            fields = {
                "workspace_id": WORKSPACES[number % len(WORKSPACES)],
                "alg": "sha256",
                "hash": hashlib.sha256(b"key %d" % number).hexdigest(),
                "hash_encoding": "hex",
                "label": f"customer {number}",
                "scopes": ["orders:read"],
                "created_at": "2024-05-01T10:00:00Z",
            }
            if change == 0:
                fields["revoked_at"] = "2026-01-01T00:00:00Z"
            elif change in (2, 3):
                fields["label"] = f"another name {number}"
            file.write(json.dumps(fields) + "\n")


def resident(pid: int) -> float:
    """The memory of a process in MB; 0 if the process has ended."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0


def run(url: str, path: Path) -> tuple[float, list[float]]:
    """Import the file; return the seconds, and the memory measured every half second."""
    began = time.perf_counter()
    memory: list[float] = []
    with subprocess.Popen(
        [PROGRAM, "import", path, "--source", "bench", "--complete"],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "DATABASE_URL": url},
    ) as program:
        while program.poll() is None:
            memory.append(resident(program.pid))
            time.sleep(0.5)
    assert program.returncode == 0
    return time.perf_counter() - began, [size for size in memory if size]


def main() -> int:
    """Measure and print. Return 1 if the import is slower than the bound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows: int = parser.parse_args().rows
    janitor = Janitor()
    settings = {"max_wal_size": "4GB"}
    with (
        tempfile.TemporaryDirectory() as directory,
        Server(settings=settings, janitor=janitor) as server,
        Database(server, "a") as database,
    ):
        database.migrate()
        path = Path(directory) / "keys.jsonl"
        write(path, rows)
        seconds, memory = run(database.superuser_url, path)
        with psycopg.connect(database.url) as owner:
            counts = owner.execute(
                "select count(*), (select count(*) from keylatch_internal.key_events)"
                " from keylatch_internal.keys"
            ).fetchall()
        write(path, rows, is_next_night=True)
        night, _ = run(database.superuser_url, path)
        with psycopg.connect(database.url) as owner:
            kept = owner.execute(
                "select count(*) filter (where revoked_at is not null), count(*)"
                " from keylatch_internal.keys"
            ).fetchall()
    janitor.close()
    assert counts == [(rows, rows)], counts
    changed = -(-rows // 400)
    assert kept == [(2 * changed, rows + changed)], kept
    table = Table(title=f"keylatch import, {rows:,} lines with a SHA-256")
    for column in ("seconds", "lines/s", "MB after a tenth", "MB at the end", "MB at most"):
        table.add_column(column, justify="right")
    sizes = (memory[len(memory) // 10], memory[-2], max(memory))
    table.add_row(f"{seconds:.0f}", f"{rows / seconds:,.0f}", *(f"{size:.0f}" for size in sizes))
    console = Console(width=80)
    console.print(table)
    console.print(f"the night after, 1 % changed: {night:.0f} s, {rows / night:,.0f} lines/s")
    return int(rows / seconds < BOUND)


if __name__ == "__main__":
    sys.exit(main())
