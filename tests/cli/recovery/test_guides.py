"""The guides of day two: each command in them exists, with the options that it is given."""

import re
import shlex

import pytest

from cli.program import Program
from stack.tools import ROOT

pytestmark = pytest.mark.one_server

GUIDES = ("revocations", "uninstall", "declarative_schemas")


@pytest.mark.parametrize("name", GUIDES)
def test_every_command_of_a_guide_exists(program: Program, name: str) -> None:
    text = (ROOT / "sql" / "docs" / f"{name}.md").read_text()
    blocks = re.findall(r"```sh\n(.*?)```", text, re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("keylatch ")]
    assert commands
    for words in commands:
        named = [word for word in words if re.fullmatch("[a-z]+", word) and word != "keylatch"]
        usage = program(*named[:2], "--help").out
        assert usage.startswith(f"Usage: keylatch {' '.join(named[:2])} ")
        for option in (word for word in words if word.startswith("--")):
            assert f" {option} " in usage
