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
    """What a run left behind.

    Attributes:
        code: The exit code.
        out: What it wrote to stdout.
        err: What it wrote to stderr.
        screen: What it wrote to its terminal, if it had one.
    """

    code: int
    out: str
    err: str
    screen: str = ""

    @property
    def json(self) -> Any:
        """Stdout, all of which is JSON."""
        return json.loads(self.out)


@dataclass(frozen=True)
class Program:
    """The program in a directory and an environment, with options that every call gets.

    Attributes:
        directory: The current directory.
        environment: The variables, and no others but the few that every program needs.
        options: What every call ends with.
        is_preloaded: A call runs in a process that has loaded the program; see `cli.preloaded`.
    """

    directory: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    is_preloaded: bool = False

    def having(self, *options: str, **variables: str) -> "Program":
        """The same with more options and variables."""
        environment = {**self.environment, **variables}
        return replace(self, environment=environment, options=(*self.options, *options))

    def __call__(
        self, *arguments: object, stdin: str | bytes = b"", code: int | None = 0
    ) -> Result:
        """Run it to its end.

        Args:
            *arguments: The command and its arguments.
            stdin: What it reads.
            code: The exit code that it must have; `None` for any.
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
        """Run it with `--json` and give what it answers; nothing may stand on stderr."""
        result = self(*arguments, "--json", stdin=stdin)
        assert result.err == ""
        return result.json

    def at_a_terminal(self, *arguments: object, typed: str, prompt: str = "") -> Result:
        """Run it with a terminal to read from, and pipes to write to.

        Args:
            *arguments: The command and its arguments.
            typed: The line that somebody types.
            prompt: What the program writes to the terminal itself before it reads, if it does.
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
        with suppress(OSError):  # which is how the end of the other side shows
            while block := os.read(ours, 4096):
                screen += block
        os.close(ours)
        return Result(process.returncode, out.decode(), err.decode(), screen.decode())

    def command(self, *arguments: object) -> list[str]:
        """Returns the words of the command line."""
        return [str(SCRIPT), *map(str, arguments), *self.options]

    def surroundings(self) -> dict[str, Any]:
        """Returns directory and environment as keyword arguments for `subprocess`."""
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        return {"cwd": self.directory, "env": {**kept, "LANG": "C.UTF-8", **self.environment}}


def _at_terminal() -> None:
    """What a terminal's shell does for a program that it starts in the foreground."""
    # So that /dev/tty is this terminal, and not that of who runs the tests.
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    # Who runs the tests in the background of a script ignores Ctrl-C, and that is inherited.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
