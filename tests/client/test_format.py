"""The format of a key: parts, checksum and hash, without a database."""

import hashlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from client.vectors import KEYS, SECRET, TEXTS, KeyVector, TextVector
from keylatch import ParsedKey, Secret, fingerprint, hash_key, matches_hash, parse_key
from keylatch.errors import InvalidArgument
from keylatch.keys import ALPHABET

pytestmark = pytest.mark.one_server

ANY_KEY = st.sampled_from([vector["key"] for vector in KEYS])
# Includes lone surrogates: a str may contain them, but `text()` leaves them out.
ANY_TEXT = st.text(st.characters())
OF_KEYS = st.sampled_from(ALPHABET + "0OIl_-. \n" + "é１\ud800")


@pytest.mark.parametrize("vector", KEYS, ids=lambda vector: vector["key"])
def test_a_key_gives_its_parts_and_its_hash(vector: KeyVector) -> None:
    assert parse_key(vector["key"]) == ParsedKey(
        prefix=vector["prefix"], kind=vector["kind"], environment=vector["environment"]
    )
    assert parse_key(Secret(vector["key"])) == parse_key(vector["key"])
    assert hash_key(vector["key"]).hex() == vector["hash"]
    assert hash_key(Secret(vector["key"])) == hash_key(vector["key"])
    assert matches_hash(vector["key"], bytes.fromhex(vector["hash"]))
    assert fingerprint(vector["key"]) == fingerprint(Secret(vector["key"])) == vector["hash"][:8]


@pytest.mark.parametrize("vector", TEXTS, ids=lambda vector: repr(vector["text"]))
def test_a_text_that_is_no_key_is_refused_with_the_reason_and_still_has_a_hash(
    vector: TextVector,
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_key(vector["text"])
    word = {"malformed": "malformed", "checksum_failed": "checksum"}[vector["form"]]
    assert word in str(caught.value.detail)
    assert caught.value.slug == "invalid_argument"
    assert hash_key(vector["text"]).hex() == vector["hash"]


def test_the_alphabet_has_58_characters_and_none_that_look_alike() -> None:
    assert len(set(ALPHABET)) == len(ALPHABET) == 58
    assert not set("0OIl") & set(ALPHABET)


@given(key=ANY_KEY, data=st.data())
def test_every_change_of_one_character_is_refused(key: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(key) - 1))
    other = data.draw(OF_KEYS.filter(lambda character: character != key[place]))
    with pytest.raises(InvalidArgument):
        parse_key(key[:place] + other + key[place + 1 :])


@pytest.mark.parametrize("key", [vector["key"] for vector in KEYS])
def test_every_change_to_another_character_of_the_alphabet_is_refused(key: str) -> None:
    for place in range(len(key)):
        for other in set(ALPHABET + "_") - {key[place]}:
            with pytest.raises(InvalidArgument):
                parse_key(key[:place] + other + key[place + 1 :])


@pytest.mark.parametrize("key", [vector["key"] for vector in KEYS])
def test_every_swap_of_unequal_neighbours_is_refused(key: str) -> None:
    for place in range(len(key) - 1):
        one, two = key[place], key[place + 1]
        if one != two:
            with pytest.raises(InvalidArgument):
                parse_key(key[:place] + two + one + key[place + 2 :])


@given(key=ANY_KEY, data=st.data())
def test_a_character_lost_or_added_is_refused(key: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(key) - 1))
    added = data.draw(OF_KEYS)
    for text in (key[:place] + key[place + 1 :], key[:place] + added + key[place:], key + added):
        with pytest.raises(InvalidArgument):
            parse_key(text)


@given(ANY_TEXT)
@example("")
@example(SECRET + "\n")
@example(SECRET + "\x00")
@example("\ud800")
def test_any_text_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_key(text)
    with pytest.raises(InvalidArgument) as empty:
        parse_key("")
    assert str(caught.value) == str(empty.value), "the same for every text, so it repeats none"
    assert caught.value.__context__ is None


@given(text=ANY_TEXT, key_hash=st.binary(max_size=40))
@example(text="\ud800", key_hash=hashlib.sha256("\ud800".encode("utf-8", "surrogatepass")).digest())
@example(text="\ud800", key_hash=b"")
def test_a_comparison_with_any_hash_gives_an_answer(text: str, key_hash: bytes) -> None:
    right = hashlib.sha256(text.encode("utf-8", "replace")).digest() == key_hash
    is_text = text.encode("utf-8", "replace") == text.encode("utf-8", "ignore")
    assert matches_hash(text, key_hash) is (right and is_text)


def test_a_hash_is_compared_whole_and_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def note(one: bytes, two: bytes) -> bool:
        compared.append((one, two))
        return False

    monkeypatch.setattr("keylatch.keys.hmac.compare_digest", note)
    assert matches_hash(SECRET, b"x") is False
    assert compared == [(hash_key(SECRET), b"x")]


def test_a_lone_surrogate_has_no_hash_and_the_error_does_not_carry_the_text() -> None:
    with pytest.raises(InvalidArgument, match="lone surrogate") as caught:
        hash_key(SECRET + "\udcff")
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None
    assert matches_hash(SECRET + "\udcff", b"") is False


@pytest.mark.parametrize("value", [None, 5, SECRET.encode(), [SECRET]])
def test_a_value_that_is_not_a_string_is_refused_by_every_function(value: object) -> None:
    with pytest.raises(InvalidArgument, match="not a string"):
        hash_key(value)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="not a string"):
        fingerprint(value)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="not a string"):
        parse_key(value)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="not a string"):
        matches_hash(value, b"")  # type: ignore[arg-type]


def test_a_hash_in_hex_is_refused_rather_than_never_matched() -> None:
    with pytest.raises(InvalidArgument, match="key_hash is str, not bytes"):
        matches_hash(SECRET, hash_key(SECRET).hex())  # type: ignore[arg-type]
