"""Runs the program in a process that has already loaded it: `python -m cli.preloaded`.

A short command spends most of its time on loading Python's libraries. So one process loads them,
and forks for each run. Each run has its own directory, environment, arguments and streams. A test
of the program's start, or of what the system shows about it, runs the installed script instead.
"""

import atexit
import gc
import io
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import NoReturn

import typer

from stack import HANG_SECONDS

LIBRARIES = (
    "psycopg",
    "postgrest",
    "httpx",
    "rich.console",
    "rich.table",
    "rich.progress",
    "jinja2",
)
PACKAGES = ("keylatch", "keylatch_cli")
_LONGEST = 200_000


@cache
def _line() -> str:
    """Start the forking process, which ends with this process, and return its socket's path."""
    name = f"{tempfile.mkdtemp(prefix='keylatch-cli-')}/line"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(name)
    listener.listen(64)
    process = subprocess.Popen(
        [sys.executable, "-m", "cli.preloaded", str(listener.fileno()), name],
        cwd=Path(__file__).parents[1],
        stdin=subprocess.PIPE,
        pass_fds=[listener.fileno()],
    )
    listener.close()
    atexit.register(process.communicate)
    return name


def run(
    arguments: list[str], *, directory: Path, environment: Mapping[str, str], stdin: bytes
) -> subprocess.CompletedProcess[bytes]:
    """Run the program to its end.

    Args:
        arguments: The words of the command line, the script first.
        directory: The current directory.
        environment: The whole environment.
        stdin: The input of the program.
    """
    sent = json.dumps([arguments, str(directory), dict(environment)]).encode()
    with (
        tempfile.TemporaryFile() as given,
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as line,
    ):
        given.write(stdin)
        given.seek(0)
        line.settimeout(HANG_SECONDS)
        line.connect(_line())
        socket.send_fds(line, [sent], [given.fileno(), out.fileno(), err.fileno()])
        code = int(line.recv(64))
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(arguments, code, out.read(), err.read())


def _serve(listener: socket.socket, name: str) -> None:
    for library in LIBRARIES:
        import_module(library)
    for package in map(import_module, PACKAGES):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.startswith("keylatch.fastapi"):
                import_module(module.name)
    # The commands are built from their signatures once, and not for each run.
    typer.main.get_command = cache(typer.main.get_command)
    typer.main.get_command(import_module("keylatch_cli.app").app)
    # Each run shares the loaded objects, because its garbage collector skips frozen objects.
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no code waits for these children
    calls, parent = listener.fileno(), sys.stdin.fileno()
    while calls in select.select([calls, parent], [], [])[0]:
        line, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _answer(line)
        line.close()
    Path(name).unlink()
    Path(name).parent.rmdir()


def _answer(line: socket.socket) -> NoReturn:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    sent, streams, _, _ = socket.recv_fds(line, _LONGEST, 3)
    program = os.fork()
    if program == 0:
        line.close()
        _become(streams, *json.loads(sent))
    # Kill the program if the caller has given up or is gone.
    if line.fileno() in select.select([os.pidfd_open(program), line.fileno()], [], [])[0]:
        os.kill(program, signal.SIGKILL)
    _, status = os.waitpid(program, 0)
    line.send(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _become(
    streams: list[int], arguments: list[str], directory: str, environment: dict[str, str]
) -> NoReturn:
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = arguments
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0)), "utf-8")
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w")), "utf-8")
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(io.FileIO(2, "w")), "utf-8", "backslashreplace", line_buffering=True
    )
    code: object = 1
    try:
        import_module("keylatch_cli").main()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2])
