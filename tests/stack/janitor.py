"""Ends the processes and removes the directories of a run, even after `kill -9` of the run.

A helper process in a session of its own reads orders from a pipe. The pipe closes when the run ends
or is killed. The helper then ends every process that it was told of, newest first, and removes
every directory. A normal end of the run works in the same way. The helper holds a pidfd of each
process, so it never kills a later process with the same pid.
"""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

_PATIENCE = 10.0  # seconds to wait after each signal before the next one
_MEMORY = 2 * 1024**3  # bytes that must be free


class Janitor:
    """The run's end of the pipe; its processes and directories cannot outlive the run."""

    def __init__(self) -> None:
        """Start the helper process."""
        self._lock = threading.Lock()
        self._helper = subprocess.Popen(
            [sys.executable, "-S", "-E", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            cwd="/",
            text=True,
        )

    def make_directory(self, base: Path | None = None) -> Path:
        """Make a temporary directory, below `base` if given; it is removed when the run ends."""
        return Path(self._order(f"mkdir {_temp_base() if base is None else base}"))

    def remove_directory(self, path: Path) -> None:
        """Remove a directory from `make_directory` now."""
        self._order(f"rmdir {path}")

    def start(
        self,
        command: Sequence[str | Path],
        *,
        signals: Sequence[signal.Signals],
        output: Path,
        environment: Mapping[str, str] | None = None,
        user: str | int | None = None,
        group: str | int | None = None,
    ) -> "subprocess.Popen[bytes]":
        """Start a process that ends with the run.

        Args:
            command: The program and its arguments.
            signals: The signals that end the process, ten seconds apart. SIGKILL always follows.
            output: The file to which the process's output is appended.
            environment: The process's environment; by default that of this process.
            user: The user to run the process as; by default the user of this process.
            group: The group that belongs to `user`.
        """
        # The shell waits for a word and then becomes the program. So the helper knows each program
        # before it runs. If this process is killed before the word, the shell ends.
        launcher = ["/bin/sh", "-c", 'read -r go && exec "$@"', "sh"]
        with output.open("ab") as log:
            process = subprocess.Popen(
                [*launcher, *(str(word) for word in command)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd="/",
                env=None if environment is None else dict(environment),
                user=user,
                group=group,
                extra_groups=None if user is None else [],
                start_new_session=True,  # Ctrl-C stops only the run; the run ends the process
            )
        assert process.stdin is not None
        self._order(f"pid {process.pid} {' '.join(str(int(number)) for number in signals)}")
        with contextlib.suppress(BrokenPipeError), process.stdin:
            process.stdin.write(b"go\n")
        return process

    def end(self, process: "subprocess.Popen[bytes]") -> None:
        """End a process from `start` now, and wait until it has ended."""
        self._order(f"end {process.pid}")
        process.wait()

    def close(self) -> None:
        """End all remaining processes, remove all directories, and wait until both are done."""
        assert self._helper.stdin is not None and self._helper.stdout is not None
        self._helper.stdin.close()
        self._helper.wait()
        self._helper.stdout.close()

    def _order(self, line: str) -> str:
        """Send the helper one order, and return the answer."""
        assert self._helper.stdin is not None and self._helper.stdout is not None
        with self._lock:
            self._helper.stdin.write(line + "\n")
            self._helper.stdin.flush()
            answer = self._helper.stdout.readline().rstrip("\n")
        if not answer.startswith("done "):
            raise RuntimeError(f"the janitor did not carry out {line!r}: {answer}")
        return answer.removeprefix("done ")


def _temp_base() -> str:
    """The directory for temporary directories; a server that runs as another user can enter it.

    The directory is in memory if there is enough memory and TMPDIR is not set: copying a database
    there takes a tenth of the time.
    """
    memory = "/dev/shm"  # noqa: S108 - only the parent for mkdtemp
    if (
        "TMPDIR" not in os.environ
        and os.access(memory, os.W_OK)
        and shutil.disk_usage(memory).free > _MEMORY
    ):
        return memory
    base = Path(tempfile.gettempdir()).resolve()
    if os.geteuid() == 0 and not all(p.stat().st_mode & 0o001 for p in (base, *base.parents)):
        return "/tmp"  # noqa: S108 - only the parent for mkdtemp
    return str(base)


class _Helper:
    """The helper's end of the pipe."""

    def __init__(self) -> None:
        self._processes: dict[int, tuple[int, tuple[int, ...]]] = {}  # pid: its pidfd, its signals
        self._directories: list[str] = []

    def serve(self, orders: IO[str], answers: IO[str]) -> None:
        """Carry out orders until the pipe closes, then end all processes and remove directories."""
        try:
            for line in orders:
                try:
                    answer = f"done {self._carry_out(line)}"
                except (OSError, ValueError) as error:
                    answer = f"failed: {error!r}"
                with contextlib.suppress(BrokenPipeError):
                    answers.write(f"{answer}\n")
                    answers.flush()
        finally:
            for pid in reversed(list(self._processes)):
                self._end(pid)
            for directory in list(self._directories):
                self._remove(directory)

    def _carry_out(self, order: str) -> str:
        word, _, rest = order.rstrip("\n").partition(" ")
        match word:
            case "pid":
                self._adopt(*(int(number) for number in rest.split()))
            case "end":
                self._end(int(rest))
            case "mkdir":
                self._directories.append(tempfile.mkdtemp(prefix="keylatch-", dir=rest))
                return self._directories[-1]
            case "rmdir":
                self._remove(rest)
        return ""

    def _adopt(self, pid: int, *signals: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._processes[pid] = (os.pidfd_open(pid), signals)

    def _end(self, pid: int) -> None:
        if pid not in self._processes:
            return
        pidfd, signals = self._processes.pop(pid)
        for number in (*signals, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, number)
            # A pidfd becomes readable when its process ends, reaped or not.
            if select.select([pidfd], [], [], _PATIENCE)[0]:
                break
        os.close(pidfd)

    def _remove(self, directory: str) -> None:
        if directory in self._directories:
            self._directories.remove(directory)
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    # The helper ends when the pipe closes. A signal sent to the run and the helper must not end it.
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    _Helper().serve(sys.stdin, sys.stdout)
