"""A stack that stays up between commands: `up` starts it, `down` ends it, `status` tells.

A process of its own holds the stack and, as long as it lives, the lock on a file with its pid. So
whoever finds the lock taken knows that the pid in it is the stack's, and a stack that was killed is
simply down.
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
    """Start the stack, unless it is up, and return how to reach it, in the form of a `.env`."""
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
        # One that found the lock taken ends well: another `up` is just starting it.
        if holder.poll() not in (None, 0) or time.monotonic() > deadline:
            raise RuntimeError(f"the stack did not start:\n{_LOG.read_text(errors='replace')}")
        time.sleep(0.02)
    return env


def down() -> None:
    """End the stack and wait until it is gone; nothing happens if it is not up."""
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
    """How to reach the stack, or None if it is not up."""
    return _read_env()


def hold() -> None:
    """Be the process that holds the stack, until SIGTERM."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with _LOCK.open("a+") as lock:
        if not _take(lock):
            return
        _ENV.unlink(missing_ok=True)  # of a stack that was killed
        os.truncate(_LOG, 0)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        with Stack() as stack:
            _write_env(stack)
            stop.wait()
            _ENV.unlink(missing_ok=True)


def _take(lock: IO[str]) -> bool:
    """Acquires the lock if no other process has it, and returns whether that worked."""
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
