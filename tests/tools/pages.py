"""Runs the pages that users read (README.md and sql/docs).

A page runs from top to bottom. The blocks of one page share a directory, a shell, a session of psql
and the names of Python. The language of a fence decides what happens:

- `sh`, `sql`, `python`: the block runs and must succeed. A Python block that begins with a comment
  with a path is written to this file instead, and so is a block of any other language.
- `console` and `psql`: a transcript. Lines that begin with `$ ` or `=> ` run, and their output must
  be the lines below them.
- `text` right after a block that ran: the output of that block.

Pages show the addresses of Supabase's local stack. The test runs blocks with its own addresses, and
puts the page's addresses back into the output. Keys, ids, times and hashes differ in each run, so
only their form is compared.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from unittest import mock

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"(?:#|--|//) ([\w./-]+\.\w+)\n")
_PROMPTS = {"console": "$ ", "psql": "=> "}
_ENDS_SQL = re.compile(r"(;|\\\w+.*)$")
_ENDS_SH = re.compile(r"[^\\]$")
_END = "--- end of the statement ---"
# The values that differ in each run, the longest form first.
_CHANGING = [
    (re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]+"), "<token>"),
    (re.compile(r"\b[a-z][a-z0-9]{1,11}_(?:pk|sk)_(?:live|test)_(?:\w{36}|\.\.\.\w{4})"), "<key>"),
    (re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "<id>"),
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d[\d:.]*(?:Z|[+-]\d\d(?::?\d\d)?)?"), "<time>"),
    (re.compile(r"\b\d{4}-\d\d-\d\d\b"), "<time>"),
    (re.compile(r"(database_oid +\| )\d+"), r"\1<oid>"),
    (re.compile(r"\b\d{14}(?=_)"), "<stamp>"),
    (re.compile(r"\b[0-9a-f]{16,64}\b"), "<hash>"),
    (re.compile(r"\b[0-9a-f]{8}\b"), "<fingerprint>"),
    (re.compile(r"\b\d+(?:\.\d+)? m?s\b"), "<duration>"),
    (re.compile(r"\b[\d,]+ tries"), "<number> tries"),
    (re.compile(r"\boid \d+"), "oid <number>"),
    (re.compile(r"\b\d{16,20}\b"), "<number>"),
    (re.compile(r"PostgreSQL \d+\.\d+"), "PostgreSQL <version>"),
    (re.compile(r"[ ─━-]{2,}"), " "),
    (re.compile(r" +$", re.MULTILINE), ""),
]


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        language: The language of the fence.
        text: The text between the fences.
        start: The offset of the text in the page.
    """

    language: str
    text: str
    start: int


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    return [Block(found[1], found[2], found.start(2)) for found in _FENCE.finditer(page)]


def form(text: str) -> str:
    """Replace the values that differ in each run with names of their forms."""
    for pattern, word in _CHANGING:
        text = pattern.sub(word, text)
    return text.strip()


class Reader:
    """Runs the blocks of a page; a context manager that ends the shell and psql.

    Attributes:
        directory: The current directory of the blocks.
        environment: The variables of the shell, of psql and of Python.
        names: The names that the page's Python has defined.
    """

    def __init__(
        self, directory: Path, environment: Mapping[str, str], addresses: Mapping[str, str]
    ) -> None:
        """Begin in a directory.

        Args:
            directory: The current directory.
            environment: The variables; they must include `DATABASE_URL`.
            addresses: Each address that a page shows, with the real address in this test.
        """
        self.directory, self.environment = directory, dict(environment)
        self.names: dict[str, Any] = {"__name__": "page"}
        self._addresses = dict(addresses)
        self._programs: dict[str, subprocess.Popen[str]] = {}

    def __enter__(self) -> Self:
        """Returns the reader."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the shell and psql, and all processes that they started."""
        for program in self._programs.values():
            os.killpg(program.pid, signal.SIGKILL)
            program.communicate()

    def read(self, page: str) -> str:
        """Run a page, and return the page with the output of this run in its transcripts.

        Raises:
            AssertionError: A block failed; the message is the block's output.
        """
        found, printed = page, ""
        moved = 0
        for block in blocks(page):
            new = block.text
            if block.language == "text":
                new = self._shown(printed)
            elif block.language in _PROMPTS:
                new = self._transcript(block)
            else:
                printed = self._run(block.language, self._real(block.text))
            start = block.start + moved
            found = found[:start] + new + found[start + len(block.text) :]
            moved += len(new) - len(block.text)
        return found

    def _real(self, text: str) -> str:
        for shown, real in self._addresses.items():
            text = text.replace(shown, real)
        return text

    def _shown(self, text: str) -> str:
        for shown, real in self._addresses.items():
            text = text.replace(real, shown)
        return text

    def _run(self, language: str, text: str) -> str:
        name = _FILE.match(text)
        if name and language not in ("sh", "sql"):
            path = self.directory / name[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
            return ""
        if language == "python":
            return self._run_python(text)
        assert language in ("sh", "sql"), f"a block of {language} must begin with its file's name"
        printed, failed = self._tell(language, text)
        assert not failed, f"{text}\n{printed}"
        return printed

    def _run_python(self, text: str) -> str:
        output = io.StringIO()
        with (
            contextlib.chdir(self.directory),
            mock.patch.dict(os.environ, self.environment),
            contextlib.redirect_stdout(output),
        ):
            exec(compile(text, "page", "exec"), self.names)  # noqa: S102
        return output.getvalue()

    def _transcript(self, block: Block) -> str:
        """Run the lines after the prompts, and return the block with the new output."""
        prompt = _PROMPTS[block.language]
        language = "sql" if block.language == "psql" else "sh"
        told = []
        for statement in _statements(block.text, prompt):
            printed, _ = self._tell(language, self._real(statement))
            told.append(f"{prompt}{statement}\n{self._shown(printed)}")
        # psql ends a table with an empty line. Pages leave it out at the end of a block.
        return "".join(told).rstrip("\n") + "\n"

    def _tell(self, language: str, text: str) -> tuple[str, bool]:
        """Send a text to the shell or psql. Return the output, and whether the text failed."""
        program = self._program(language)
        assert program.stdin is not None
        assert program.stdout is not None
        if language == "sql":
            program.stdin.write(f"{text.rstrip()}\n\\echo '{_END}'\n")
        else:  # a program that reads its input must not read the rest of the page
            program.stdin.write(f"{{\n{text.rstrip()}\n}} </dev/null\necho '{_END}' $?\n")
        program.stdin.flush()
        printed = ""
        for line in program.stdout:
            before, ends, code = line.partition(_END)
            printed += before
            if ends:
                wrong = re.search(r"ERROR:|FATAL:|^psql: error|^invalid command", printed, re.M)
                failed = wrong is not None if language == "sql" else code.strip() != "0"
                return "".join(f"{line.rstrip()}\n" for line in printed.splitlines()), failed
        raise AssertionError(f"{language} has ended:\n{printed}")

    def _program(self, language: str) -> subprocess.Popen[str]:
        if language not in self._programs:
            psql = [
                "stdbuf",
                "-oL",
                "psql",
                "-Xqv",
                "SHOW_CONTEXT=never",
                self.environment["DATABASE_URL"],
            ]
            self._programs[language] = subprocess.Popen(
                ["bash", "-s"] if language == "sh" else psql,
                cwd=self.directory,
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        return self._programs[language]


def _statements(text: str, prompt: str) -> Iterator[str]:
    """Yield the input after each prompt: SQL up to a semicolon, a psql command, or a shell line."""
    lines = iter(text.splitlines())
    for line in lines:
        if not line.startswith(prompt):
            continue
        statement = line.removeprefix(prompt)
        while not (_ENDS_SQL if prompt == "=> " else _ENDS_SH).search(statement):
            statement += "\n" + next(lines)
        yield statement
