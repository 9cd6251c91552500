"""Every error that keylatch raises, and the tables that map server errors to these classes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar, Self

from .advice import advise
from .secret import mask_keys


class KeylatchError(Exception):
    """The base class of all errors of this package. Also raised itself if no other class fits.

    No attribute contains a key: server messages are masked, and quoted input is removed.

    Attributes:
        slug: The word for programs, such as `key_revoked`; `default_slug` if the server sent none.
        sqlstate: The five characters of the SQLSTATE; `None` if no database answered.
        detail: One sentence that says what is wrong and names the field, or `None`.
        hint: The next step, or `None`.
        default_slug: The slug of an error of this class if the server sent no slug.
    """

    default_slug: ClassVar[str] = "database_error"

    def __init_subclass__(cls) -> None:
        """Derive a missing `default_slug` from the name: `key_not_found` for `KeyNotFound`."""
        if "default_slug" not in vars(cls):
            cls.default_slug = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.__name__).lower()

    def __init__(
        self,
        slug: str | None = None,
        sqlstate: str | None = None,
        detail: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.slug = slug or self.default_slug
        self.sqlstate = sqlstate
        self.detail = detail
        self.hint = hint
        # Exception keeps its arguments for the repr.
        super().__init__(self.slug, sqlstate, detail, hint)

    def __str__(self) -> str:
        detail = f": {self.detail}" if self.detail else ""
        return f"{self.slug}{detail} ({self.hint})" if self.hint else f"{self.slug}{detail}"


class KeyNotFound(KeylatchError):
    """There is no such key, or the caller may not see it."""


class KeyNotUsable(KeylatchError):
    """The call needs an active key, but this key is rotated, revoked, expired or suspended."""

    @property
    def reason(self) -> str:
        """Why: `key_already_rotated`, `key_revoked`, `key_expired` or `key_suspended`."""
        return self.slug


class LatchViolation(KeylatchError):
    """The database refused a change that it allows to no role, such as an undone revocation."""


class InvalidArgument(KeylatchError, ValueError):
    """A value breaks a rule. `detail` names the field and does not repeat the value."""

    @classmethod
    def of(cls, field: str, problem: str, hint: str | None = None) -> Self:
        """Return the error for a refused value. `problem` follows `field` and omits the value."""
        return cls(detail=f"{field} {problem}", hint=hint)


class PermissionDenied(KeylatchError):
    """The row policies, the grants or the gateway refused this user, or the token has expired."""


class Unavailable(KeylatchError):
    """The database did not answer: no connection, a timeout, an overload, or a server failure.

    A call that writes may have taken effect. List the keys before you repeat `issue` or `rotate`.
    You can repeat `revoke`.
    """


class TooManyRequests(Unavailable):
    """A rate limit is reached. `detail` says how many seconds to wait."""


class SessionNotFound(KeylatchError):
    """The text is not the token of an open session: mistyped, expired or closed."""


class AdoptionNotReady(KeylatchError):
    """A step of `keylatch adopt` cannot run yet. `detail` says what is missing."""


class SchemaNotExposed(KeylatchError):
    """PostgREST does not serve the schema `keylatch`. `hint` names the setting."""


class NotInstalled(KeylatchError):
    """keylatch or its module is missing or too old, as `detail` says. `hint` has the command."""


class UnexpectedAnswer(KeylatchError):
    """The answer did not come from keylatch: the URL or the called function is another one."""


class UnreadableRow(KeylatchError):
    """Python cannot read one value of a row. All other values and rows are readable."""


_SLUGS: dict[type[KeylatchError], str] = {
    KeylatchError: "read_committed_required restore_incomplete",
    KeyNotFound: "key_not_found",
    KeyNotUsable: "key_already_rotated key_revoked key_expired key_suspended",
    LatchViolation: "revoked_is_final expired_is_final superseded_is_final column_is_immutable "
    "keys_are_kept events_are_kept sealed_at_publisher workspace_deleted subject_is_final "
    "too_many_keys",
    InvalidArgument: "invalid_argument",
    PermissionDenied: "admin_required invalid_api_key invalid_session session_refused",
    SessionNotFound: "session_not_found",
    TooManyRequests: "too_many_requests",
    Unavailable: "replicas_behind",
    AdoptionNotReady: "adoption_not_ready",
}
CLASS_BY_SLUG = {slug: kind for kind, slugs in _SLUGS.items() for slug in slugs.split()}
"""The class for each slug that the database raises."""

# Codes of PostgreSQL and PostgREST, whole or the first two characters; and HTTP statuses, of a
# gateway or in the last three characters of a keylatch code.
_CODES: dict[type[KeylatchError], str] = {
    InvalidArgument: "22 23502 23514 54 HTTP400 HTTP413 HTTP422",
    KeyNotFound: "HTTP404",
    KeyNotUsable: "HTTP409",
    NotInstalled: "3F000 42883 42P01 PGRST202 PGRST205",
    PermissionDenied: "28 42501 PGRST301 PGRST302 PGRST303 HTTP401 HTTP403",
    SchemaNotExposed: "PGRST106",
    Unavailable: "08 25006 40001 40P01 53 55P03 57 58 PGRST000 PGRST001 PGRST002 PGRST003 "
    "HTTP408 HTTP429",
}
_CLASS_BY_CODE = {code: kind for kind, codes in _CODES.items() for code in codes.split()}

# PostgreSQL uses these for every missing function and table. `NotInstalled` is only for ours.
_MISSING = ("42883", "42P01", "3F000")
_OURS = re.compile(r"\bkeylatch\b|\bkeylatch_internal\b")
_SLUG = re.compile(r"[a-z][a-z0-9_]{2,62}")
_OWN_STATE = re.compile(r"PT[1-5][0-9]{2}")
_SQLSTATE = re.compile(r"[0-9A-Z]{5}")


def error_for(
    message: str | None,
    code: str | None,
    detail: str | None = None,
    hint: str | None = None,
    *,
    status: int | None = None,
    arguments: Mapping[str, object] | None = None,
) -> KeylatchError:
    """Turn a server's error into the error to raise, with every text masked.

    Args:
        message: The slug if keylatch raised the error; prose of PostgreSQL, PostgREST or a gateway.
        code: A SQLSTATE, a code of PostgREST (`PGRST…`), or `None`.
        detail: The detail of the server's error.
        hint: The hint of the server's error.
        status: The HTTP status, if there was one.
        arguments: The arguments of the call, to find the argument that PostgreSQL could not read.
    """
    code = code or ""
    for name, value in (arguments or {}).items():
        # PostgreSQL quotes what it could not read.
        if code == "22P02" and isinstance(value, str) and f': "{value}"' in (message or ""):
            return InvalidArgument(None, code, f"{name} is not a valid value of its type")
    message, detail, hint = (mask_keys(text or "").strip() for text in (message, detail, hint))
    if _OWN_STATE.fullmatch(code) or message in CLASS_BY_SLUG:
        return _own_error(message, code, detail, hint)
    sqlstate = code if _SQLSTATE.fullmatch(code) else None
    # Errors of class 22 quote values, and further lines may show rows.
    sentence = message.partition("\n")[0] or "no reason was given"
    hint = hint.partition("\n")[0]
    if code.startswith("22"):
        sentence = f"a value cannot be read as the type of its argument (SQLSTATE {code})"
    elif code.startswith("PGRST"):
        sentence = f"PostgREST answered {code}: {sentence}"
    elif not code and status is not None:
        sentence = f"HTTP {status} from a server before PostgREST: {sentence}"
    if code in _MISSING and not _OURS.search(message):
        return KeylatchError(None, sqlstate, sentence, hint or None)
    advised, next_step = advise(code, message, status)
    kind = _class_of(code, sqlstate, status)
    return kind(None, sqlstate, advised or sentence, next_step or hint or None)


def _own_error(message: str, code: str, detail: str, hint: str) -> KeylatchError:
    """Choose the Python class by the slug, or by the HTTP status in a SQLSTATE such as PT404."""
    kind = CLASS_BY_SLUG.get(message) or _class_by_status(int(code[2:]))
    if _SLUG.fullmatch(message):
        return kind(message, code, detail or None, hint or None)
    # An error of the user's own trigger: prose in place of keylatch's slug.
    sentence = ": ".join(part for part in (message, detail) if part)
    return kind(None, code, sentence or None, hint or None)


def _class_of(code: str, sqlstate: str | None, status: int | None) -> type[KeylatchError]:
    """Choose the class of an error that keylatch itself did not raise."""
    known = _CLASS_BY_CODE.get(code) or _CLASS_BY_CODE.get(code[:2])
    if known is not None:
        return known
    # An SQLSTATE has the same class over every transport, so the HTTP status does not matter.
    if sqlstate is not None or status is None:
        return KeylatchError
    kind = _class_by_status(status)
    # These statuses are about a key only if the database raised them.
    if kind in (KeyNotFound, KeyNotUsable, KeylatchError):
        return KeylatchError if code else UnexpectedAnswer
    return kind


def _class_by_status(status: int) -> type[KeylatchError]:
    return Unavailable if status >= 500 else _CLASS_BY_CODE.get(f"HTTP{status}", KeylatchError)
