"""Each attack of threats.toml has tests, and those tests exist."""

import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
DATABASE = TESTS.parent / "supabase" / "tests" / "database"
THREATS: dict[str, list[str]] = {
    f"{part}: {attack}": tests
    for part, attacks in tomllib.loads(Path(__file__).with_name("threats.toml").read_text()).items()
    for attack, tests in attacks.items()
}


@cache
def described(file: str) -> frozenset[str]:
    """Return the names of the tests of a file."""
    if file.endswith(".sql"):
        return frozenset(re.findall(r"'((?:[^'\n]|'')+)'", (DATABASE / file).read_text()))
    text = (TESTS / file).read_text()
    return frozenset(re.findall(r"^(?:async )?def (test_\w+)\(", text, re.M))


@pytest.mark.parametrize("attack", THREATS)
def test_an_attack_has_a_test_that_exists(attack: str) -> None:
    assert THREATS[attack] != []
    for name in THREATS[attack]:
        file, _, test = name.partition("::")
        assert test in described(file), name


def test_a_test_that_is_gone_would_be_missed() -> None:
    assert "test_nobody_wrote_this" not in described("security/test_threats.py")
    assert "test_a_test_that_is_gone_would_be_missed" in described("security/test_threats.py")
