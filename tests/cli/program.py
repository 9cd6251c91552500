"""Runs the installed program `keylatch` as a user does, and sees what a user sees."""

import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cli import preloaded
from stack import HANG_SECONDS

_KEPT = ("PATH", "HOME", "SSL_CERT_FILE")
SCRIPT = Path(sys.executable).parent / "keylatch"


@dataclass(frozen=True)
class Result:
    """The result of a run.

    Attributes:
        code: The exit code.
        out: The text on stdout.
        err: The text on stderr.
        screen: The text on the terminal, if the run had a terminal.
    """

    code: int
    out: str
    err: str
    screen: str = ""

    @property
    def json(self) -> Any:
        """The whole stdout, parsed as JSON."""
        return json.loads(self.out)


@dataclass(frozen=True)
class Program:
    """The program in a directory and an environment, with options that every call gets.

    Attributes:
        directory: The current directory.
        environment: The variables. A call also gets the few variables that every program needs.
        options: The last words of every call.
        is_preloaded: A call runs in a process that has loaded the program; see `cli.preloaded`.
    """

    directory: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    is_preloaded: bool = False

    def having(self, *options: str, **variables: str) -> "Program":
        """Return this program with more options and variables."""
        environment = {**self.environment, **variables}
        return replace(self, environment=environment, options=(*self.options, *options))

    def __call__(
        self, *arguments: object, stdin: str | bytes = b"", code: int | None = 0
    ) -> Result:
        """Run the program to its end.

        Args:
            *arguments: The command and its arguments.
            stdin: The input of the program.
            code: The required exit code; `None` accepts any.
        """
        given = stdin.encode() if isinstance(stdin, str) else stdin
        around = self.surroundings()
        if self.is_preloaded:
            done = preloaded.run(
                self.command(*arguments),
                directory=around["cwd"],
                environment=around["env"],
                stdin=given,
            )
        else:
            done = subprocess.run(
                self.command(*arguments),
                input=given,
                capture_output=True,
                check=False,
                timeout=HANG_SECONDS,
                **around,
            )
        result = Result(done.returncode, done.stdout.decode(), done.stderr.decode())
        assert code in (None, result.code), result
        assert "Traceback" not in result.err
        return result

    def ok(self, *arguments: object, stdin: str | bytes = b"") -> Any:
        """Run the program with `--json`, assert that stderr is empty, and return the answer."""
        result = self(*arguments, "--json", stdin=stdin)
        assert result.err == ""
        return result.json

    def at_a_terminal(self, *arguments: object, typed: str, prompt: str = "") -> Result:
        """Run the program with a terminal as its input, and pipes for its output.

        Args:
            *arguments: The command and its arguments.
            typed: The line that a user types.
            prompt: The end of the terminal's text to wait for; empty to type at once.
        """
        ours, theirs = os.openpty()
        with subprocess.Popen(
            self.command(*arguments),
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=_at_terminal,
            **self.surroundings(),
        ) as process:
            os.close(theirs)
            screen = b""
            while not screen.endswith(prompt.encode()):
                assert select.select([ours], [], [], HANG_SECONDS)[0], "it does not ask"
                screen += os.read(ours, 4096)
            os.write(ours, f"{typed}\n".encode())
            out, err = process.communicate(timeout=HANG_SECONDS)
        with suppress(OSError):  # the read fails once the other side is closed
            while block := os.read(ours, 4096):
                screen += block
        os.close(ours)
        return Result(process.returncode, out.decode(), err.decode(), screen.decode())

    def command(self, *arguments: object) -> list[str]:
        """Return the words of the command line."""
        return [str(SCRIPT), *map(str, arguments), *self.options]

    def surroundings(self) -> dict[str, Any]:
        """Return directory and environment as keyword arguments for `subprocess`."""
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        return {"cwd": self.directory, "env": {**kept, "LANG": "C.UTF-8", **self.environment}}


def _at_terminal() -> None:
    """Prepare the process as a shell prepares a program that it starts in the foreground."""
    # /dev/tty must be this terminal, and not the terminal that runs the tests.
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    # A script that runs the tests in the background ignores Ctrl-C, and this process inherits that.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
