"""Runs the program in a process that has loaded it already: `python -m cli.preloaded`.

Most of the time of a short command goes into loading Python's libraries. A process that has done
that forks for each run; directory, environment, arguments and streams are those of the run. What
tests how the program starts, or what the system shows of it, runs the installed script.
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
    """Start the process that forks, and give the name of its socket; it ends with this one."""
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
        arguments: Its words, the script first.
        directory: The current directory.
        environment: All of its environment.
        stdin: What it reads.
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
    # What is loaded stays shared with each run, whose garbage collector leaves it alone.
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for who answers a run
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
    # Who asked may have given up, or be gone: so is the program then.
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
