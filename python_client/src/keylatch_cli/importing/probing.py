"""Tries real keys against a file before the file is imported, for `keylatch import --probe`."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

from keylatch.arguments import Batch
from keylatch.client import Keylatch

from .batches import Import
from .lines import Line

MOST = 20
"""The maximum number of keys to try in one call."""
_BATCH = 2000
_WORKSPACE = re.compile(r"(.+?)\s+([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})")
# The part of a key that a system hashes, in words.
_PARTS: Mapping[str, Callable[[str], bytes | None]] = {
    "the whole key": lambda key: key.encode(),
    "the part after the first |": lambda key: _after(key, "|"),
    "the part after the first _": lambda key: _after(key, "_"),
    "the part after the last _": lambda key: key.rpartition("_")[2].encode(),
    "the part after the first dot": lambda key: _after(key, "."),
    "its last 128 characters": lambda key: key[-128:].encode(),
    "the bytes of the base64 text": lambda key: _decoded(key),
    "the bytes of the hex text": lambda key: _unhexed(key),
}
_DIGESTS = ("sha256", "sha512", "md5", "sha1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A real key to try, as its holder sends it.

    Attributes:
        key: The text of the key.
        workspace_id: The workspace of the key; `None` if unknown.
    """

    key: str
    workspace_id: str | None = None

    @property
    def sent(self) -> dict[str, object]:
        """What `import_keys` takes."""
        known = {"workspace_id": self.workspace_id} if self.workspace_id else {}
        return {"key": self.key, **known}


@dataclass(slots=True, kw_only=True)
class Finding:
    """The result of trying a key.

    Attributes:
        verdict: The verdict of `explain`; `unknown` if no line of the file matches the key.
        like: The number of a line whose key begins or ends like the tried key.
        otherwise: In words: the line whose hash is another hash of the key, and which hash.
    """

    verdict: str = "unknown"
    like: int | None = None
    otherwise: str = ""
    hashes: dict[bytes, str] = field(default_factory=dict)


def read_probes(lines: Iterable[str]) -> list[Probe]:
    """Read a key from each line. A line may also have the key's workspace id, after a space."""
    probes = []
    for line in lines:
        if text := line.strip():
            found = _WORKSPACE.fullmatch(text)
            probes.append(Probe(key=found[1], workspace_id=found[2]) if found else Probe(key=text))
    return probes


def probe(
    client: Keylatch, lines: Iterator[Line], import_: Import, probes: list[Probe]
) -> list[Finding]:
    """Try keys against a file in dry runs, until every key is found or the file ends.

    Args:
        client: A client with the service key.
        lines: The lines, from `read_lines`.
        import_: The arguments that all batches share.
        probes: The keys, at most `MOST`.

    Returns:
        The result for each key, in the same order.

    Raises:
        KeylatchError: A batch failed as a whole.
    """
    findings = [Finding(hashes=_hashes(one.key)) for one in probes]
    while batch := list(islice(lines, _BATCH)):
        left = [place for place, one in enumerate(findings) if one.verdict == "unknown"]
        if not left:
            break
        report = client.import_keys(
            Batch(line.fields for line in batch if line.fields is not None),
            dry_run=True,
            source=import_.source,
            import_id=import_.id,
            probes=[probes[place].sent for place in left],
        )
        for place, one in zip(left, report.probes, strict=True):
            if one.key_id is not None:
                findings[place].verdict = one.verdict
            else:
                _look(findings[place], probes[place].key, batch)
    return findings


def say(place: int, finding: Finding, secret: str) -> str:
    """Explain why a tried key does not resolve.

    Args:
        place: The position of the key among the tried keys, from 1.
        finding: The result for the key.
        secret: The name of the scheme's secret; empty if the scheme has no secret.

    Returns:
        One sentence.
    """
    if finding.verdict != "unknown":
        return f"Key {place} is in the file, but its verdict is {finding.verdict}."
    if finding.otherwise:
        return f"Key {place} was hashed with another algorithm: {finding.otherwise}."
    if finding.like is not None and secret:
        return (
            f"Key {place} looks like line {finding.like}, but the hash differs: "
            f"the secret {secret} is wrong."
        )
    if finding.like is not None:
        return (
            f"Key {place} looks like line {finding.like}, but the hash differs: "
            "the scheme or the key is wrong."
        )
    if secret:
        return f"No line matches key {place}: the secret {secret} or the file is wrong."
    return f"No line matches key {place}."


def _look(finding: Finding, key: str, batch: list[Line]) -> None:
    for line in batch:
        fields = line.fields or {}
        begins, ends = fields.get("starts_with"), fields.get("ends_with")
        # Fewer characters could be equal by chance.
        if finding.like is None and (
            (isinstance(begins, str) and len(begins) > 3 and key.startswith(begins))
            or (isinstance(ends, str) and len(ends) > 3 and key.endswith(ends))
        ):
            finding.like = line.number
        kept = _kept(fields)
        if kept is not None and (found := finding.hashes.get(kept)):
            finding.otherwise = f"line {line.number} has the {found}"
            return


def _hashes(key: str) -> dict[bytes, str]:
    return {
        hashlib.new(digest, taken).digest(): f"{digest.upper()} of {part}"
        for digest in _DIGESTS
        for part, take in reversed(list(_PARTS.items()))
        if (taken := take(key)) is not None
    }


def _kept(fields: Mapping[str, object]) -> bytes | None:
    text = fields.get("hash")
    if not isinstance(text, str):
        return None
    return _unhexed(text) if fields.get("hash_encoding") == "hex" else _decoded(text)


def _after(key: str, mark: str) -> bytes | None:
    _, found, rest = key.partition(mark)
    return rest.encode() if found else None


def _decoded(text: str) -> bytes | None:
    bare = text.rstrip("=")
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None


def _unhexed(text: str) -> bytes | None:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return None
