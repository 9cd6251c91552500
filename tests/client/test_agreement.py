"""Python and SQL agree on what a key is and on its hash."""

from hypothesis import given
from hypothesis import strategies as st

from client.system import System
from client.vectors import KEYS, TEXTS
from keylatch import hash_key, parse_key
from keylatch.errors import (
    InvalidArgument,
)


def test_sql_and_python_agree_on_every_vector(system: System) -> None:
    for text, hashed, form in [
        *((vector["key"], vector["hash"], "valid") for vector in KEYS),
        *((vector["text"], vector["hash"], vector["form"]) for vector in TEXTS),
    ]:
        row = system.owner.execute(
            "select encode(keylatch.hash_key(%(text)s), 'hex'),"
            " keylatch_internal.key_form(%(text)s)",
            {"text": text},
        ).fetchone()
        assert row == (hashed, form), text


def form_of(text: str) -> str:
    """Return Python's verdict on a text, in the words of `keylatch_internal.key_form`."""
    try:
        parse_key(text)
    except InvalidArgument as refusal:
        return "malformed" if "malformed" in str(refusal.detail) else "checksum_failed"
    return "valid"


# Any text that PostgreSQL can store, and texts that are almost keys.
POSTGRES_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
NEARLY_KEYS = st.builds(
    lambda key, place, other: key[:place] + other + key[place + 1 :],
    st.sampled_from([vector["key"] for vector in KEYS]),
    st.integers(0, 60),
    st.sampled_from(["", "_", "0", "z", "Z", "1", "é", "\n", " "]),
)


@given(text=POSTGRES_TEXT | NEARLY_KEYS)
def test_sql_and_python_agree_on_any_text(system: System, text: str) -> None:
    row = system.owner.execute(
        "select keylatch.hash_key(%(text)s), keylatch_internal.key_form(%(text)s)", {"text": text}
    ).fetchone()
    assert row == (hash_key(text), form_of(text))
