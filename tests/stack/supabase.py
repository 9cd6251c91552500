"""Runs the real Supabase CLI against a database, without Docker."""

import contextlib
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from stack.tools import ROOT, TESTS, supabase_cli

# The CLI writes its own files here instead of the user's home and /tmp.
_FILES = TESTS / ".stack" / "supabase-cli"


class CommandFailed(RuntimeError):
    """The CLI failed; the message is the CLI's output."""


def push_migrations(url: str, directory: Path | None = None) -> str:
    """Apply a project's migrations (by default ours) with `supabase db push`; return its output."""
    return run_supabase(["db", "push", "--yes"], url, directory)


def run_supabase(arguments: Sequence[str], url: str | None, directory: Path | None = None) -> str:
    """Run one command of the CLI on a database.

    Args:
        arguments: The command, without its target.
        url: The URL of the database for one role; `None` if the arguments name the target.
        directory: The project's directory, which contains `supabase/`; by default the repository.

    Returns:
        The CLI's output.

    Raises:
        CommandFailed: The CLI failed.
    """
    _FILES.mkdir(parents=True, exist_ok=True)
    directory = directory or _repository()
    target = urlsplit(url or "")
    user, _, host = target.netloc.rpartition("@")
    name, _, password = user.partition(":")
    environment = {
        **os.environ,
        "PGPASSWORD": unquote(password),  # every user can read the arguments of a process
        "SUPABASE_HOME": str(_FILES),
        "TMPDIR": str(_FILES),
        "SUPABASE_TELEMETRY_DISABLED": "1",
        "SUPABASE_NO_UPDATE_NOTIFIER": "1",
        "DO_NOT_TRACK": "1",
    }
    remote = urlunsplit(target._replace(netloc=f"{name}@{host}"))
    where = [f"--remote={remote}"] if url else []
    result = subprocess.run(
        [supabase_cli(), *arguments, *where, "--workdir", directory, "--agent", "no"],
        env=environment,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise CommandFailed(f"supabase {' '.join(arguments)}:\n{result.stdout}")
    return result.stdout


def _repository() -> Path:
    """The repository as a project without its .env; the CLI would read this .env and may fail."""
    project = _FILES / "project"
    project.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        (project / "supabase").symlink_to(os.path.relpath(ROOT / "supabase", project))
    return project
