"""Checks API keys and tokens before they are sent, and names the wrong one in errors."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from keylatch.advice import LOGIN
from keylatch.errors import KeylatchError, PermissionDenied

from .settings import source_of

if TYPE_CHECKING:
    from keylatch.transports import Rows, Transport

# What a service with keylatch_resolver may call. All other calls are for admins and the owner.
_FOR_SERVICES = frozenset({"resolve_key", "explain_key", "upgrade_key", "installation"})
_QUOTES = "\"'`\u2018\u2019\u201c\u201d"


def check_credential(value: str, option: str, url: str) -> None:
    """Refuse an API key or token that is malformed, or that belongs to another project.

    Args:
        value: The key or token.
        option: The command-line option for this key or token.
        url: The address of the project.

    Raises:
        KeylatchError: `usage`, with the name of the variable or option.
    """
    name = source_of(value, option)
    problem = hint = None
    if value.strip(_QUOTES) != value:
        problem, hint = "has quotation marks around it", "Remove the quotation marks."
    elif not (value.isascii() and value.isprintable()) or " " in value:
        problem = "has a space, a line break or another character that no key can have"
        hint = "Copy the whole value again, without anything around it."
    elif url_of := _project_in(url):
        project = _claims(value).get("ref")
        if isinstance(project, str) and project != url_of:
            problem = f"belongs to the project {project}, but the address belongs to {url_of}"
            hint = "Copy the key and the address from the same project."
    if problem:
        raise KeylatchError("usage", detail=f"{name} {problem}", hint=hint)


class NamingTransport:
    """Makes calls, and names the wrong variable or login in their errors.

    An error names the variable instead of "the token", and the database login instead of `<login>`.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        credential: str = "",
        login: str = "",
        needs_owner: Callable[[], PermissionDenied | None] | None = None,
    ) -> None:
        """Wrap a transport.

        Args:
            transport: The transport that sends the calls.
            credential: The name of the key or token that is sent over HTTP.
            login: The user of the connection to the database.
            needs_owner: Builds the error for a call that this login may not make.
        """
        self._transport = transport
        self._credential = credential
        self._login = login
        self._needs_owner = needs_owner

    def call(self, function: str, arguments: Mapping[str, object]) -> Rows:
        """As `Transport.call`."""
        try:
            return self._transport.call(function, arguments)
        except PermissionDenied as error:
            failure = error
        if self._needs_owner and function not in _FOR_SERVICES and (other := self._needs_owner()):
            raise other
        raise self._named(failure)

    def _named(self, error: PermissionDenied) -> PermissionDenied:
        detail, hint = error.detail or "", error.hint or ""
        if self._login:
            login = self._login
            if not re.fullmatch("[a-z_][a-z0-9_]*", login):
                login = '"{}"'.format(login.replace('"', '""'))
            detail, hint = detail.replace(LOGIN, login), hint.replace(LOGIN, login)
        if self._credential:
            detail = re.sub("the token|the API key", self._credential, detail, count=1)
        return PermissionDenied(error.slug, error.sqlstate, detail or None, hint or None)


def _project_in(url: str) -> str | None:
    """Return the reference of a hosted project: the first label of its address."""
    found = re.match(r"https://([a-z0-9]{20})\.supabase\.(?:co|in)(?:[:/]|$)", url.lower())
    return found[1] if found else None


def _claims(token: str) -> dict[str, Any]:
    """Read the claims of a JWT without verifying it; empty if the text is not a JWT."""
    parts = token.split(".")
    if len(parts) == 3:
        with suppress(ValueError, RecursionError):
            read = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
            return read if isinstance(read, dict) else {}
    return {}
