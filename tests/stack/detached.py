"""A stack that stays up between commands: `up` starts it, `down` stops it, `status` shows it.

A separate process holds the stack. While it runs, this process also holds a lock on a file that
contains its pid. A taken lock means that the pid in the file is the stack's. A free lock means that
the stack is down, also after it was killed.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

from stack.local import Stack
from stack.tools import TESTS

_STATE = Path(os.environ.get("KEYLATCH_STATE_DIRECTORY", TESTS / ".stack"))
_LOCK = _STATE / "pid"
_ENV = _STATE / "env"
_LOG = _STATE / "log"
_MONTH = 30 * 24 * 3600
_PATIENCE = 120.0


def up() -> str:
    """Start the stack unless it is up, and return its addresses and keys as a `.env`."""
    _STATE.mkdir(mode=0o700, exist_ok=True)
    if (env := _read_env()) is not None:
        return env
    with _LOG.open("ab") as log:
        holder = subprocess.Popen(
            [sys.executable, "-m", "stack", "hold"],
            cwd=TESTS,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + _PATIENCE
    while (env := _read_env()) is None:
        # A holder that finds the lock taken exits with 0: another `up` is starting the stack.
        if holder.poll() not in (None, 0) or time.monotonic() > deadline:
            raise RuntimeError(f"the stack did not start:\n{_LOG.read_text(errors='replace')}")
        time.sleep(0.02)
    return env


def down() -> None:
    """Stop the stack and wait until it has ended; do nothing if it is not up."""
    if (pid := _holder()) is None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _PATIENCE
    while _holder() == pid:
        if time.monotonic() > deadline:
            raise RuntimeError(f"the stack (process {pid}) did not end")
        time.sleep(0.02)


def status() -> str | None:
    """The addresses and keys of the stack as a `.env`, or None if the stack is not up."""
    return _read_env()


def hold() -> None:
    """Hold the stack in this process until SIGTERM or SIGINT."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with _LOCK.open("a+") as lock:
        if not _take(lock):
            return
        _ENV.unlink(missing_ok=True)  # left by a stack that was killed
        os.truncate(_LOG, 0)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        with Stack() as stack:
            _write_env(stack)
            stop.wait()
            _ENV.unlink(missing_ok=True)


def _take(lock: IO[str]) -> bool:
    """Try to acquire the lock, and return whether this process has it."""
    for _ in range(20):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02)
        else:
            return True
    return False


def _holder() -> int | None:
    """The pid of the process that holds the stack, or None."""
    try:
        with _LOCK.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        return int(_LOCK.read_text() or 0) or None
    return None


def _read_env() -> str | None:
    if _holder() is None or not _ENV.exists():
        return None
    return _ENV.read_text()


def _write_env(stack: Stack) -> None:
    values = {
        "SUPABASE_URL": stack.url,
        "SUPABASE_PUBLISHABLE_KEY": stack.anon_key,
        "SUPABASE_KEY": stack.service_key,
        # Not KEYLATCH_TOKEN: the commands would act as Alice, who may resolve no key.
        "KEYLATCH_ADMIN_TOKEN": stack.tokens.token(stack.people.alice, seconds=_MONTH),
        "RESOLVER_TOKEN": stack.tokens.token(role="keylatch_resolver", seconds=_MONTH),
        "KEYLATCH_WORKSPACE_ID": str(stack.people.a),
        "DATABASE_URL": stack.database_url,
    }
    partial = Path(f"{_ENV}.partial")
    partial.touch(mode=0o600)
    partial.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    partial.rename(_ENV)
