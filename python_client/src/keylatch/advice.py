"""What is wrong and what to do, for what PostgreSQL, PostgREST and gateways say themselves."""

from __future__ import annotations

import re
from typing import NamedTuple

LOGIN = "<login>"
"""Stands in a hint for the user of the connection, which no message of the server names."""


class Advice(NamedTuple):
    """What to tell instead of a server's own words.

    Attributes:
        detail: What is wrong; `None` where the server says it well.
        hint: What to do; `None` where nothing is known.
    """

    detail: str | None
    hint: str | None


_INSTALL = "Run: keylatch install . && supabase db push"
_RELOAD = f"{_INSTALL}. If it is installed, run in SQL: notify pgrst, 'reload schema'"
_RESOLVES = (
    "resolve_keys?|upgrade_key|(?:resolve|close)_session|attach_subject|record_usage|"
    "replay_position|wait_for_replicas"
)

# The first that fits counts: beginnings of the code (HTTP and the status where a gateway gave
# none), what the message has in it, the detail and the hint. {0} is what the first group found.
_ADVICE: tuple[tuple[str, str, str | None, str], ...] = (
    (
        "PGRST30",
        "expired",
        "the token has expired",
        "Send a new one: sign in again, or copy the key.",
    ),
    (
        "PGRST30",
        "(?i)signature|suitable key|wrong key",
        "the token is signed with another secret or key than this project's",
        "Send a token of this project. If you sign it yourself, use the secret that PostgREST has "
        "in PGRST_JWT_SECRET; on Supabase: Project Settings > JWT Keys.",
    ),
    (
        "PGRST301",
        "parts|[Bb]ase64|JSON|Decode|[Ee]mpty",
        "the token is not a JWT",
        "Copy it again, whole and without quotation marks: three parts with dots in between.",
    ),
    (
        "42501",
        'set role "([^"]+)"',
        f"the login {LOGIN} may not act as {{0}}",
        f"Run in SQL: grant {{0}} to {LOGIN};",
    ),
    (
        "42501",
        'row-level security policy for table "keys"',
        "the user does not administer the workspace",
        "Ask an admin of the workspace, or make the user one, in your own tables or in SQL: insert "
        "into keylatch.workspace_membership values ('<workspace>', '<user>', 'admin');",
    ),
    (
        "42501",
        f"for function ({_RESOLVES})$",
        "the role of this request may not call {0}",
        "Call it as keylatch_resolver or service_role. For a login of PostgreSQL run in SQL: "
        f"grant keylatch_resolver to {LOGIN};",
    ),
    (
        "42501",
        r"for function (\w+)$",
        "the role of this request may not call {0}",
        "Call it with the token of a user who administers the workspace, or with the service key.",
    ),
    (
        "42501",
        "for schema keylatch$",
        f"the login {LOGIN} has no rights in the schema keylatch",
        f"For a service that resolves keys run in SQL: grant keylatch_resolver to {LOGIN};",
    ),
    (
        "22P02",
        "type uuid",
        "the claim sub of the token is not a UUID, and the tables of keylatch need one",
        "For tokens of Clerk, Auth0 or Firebase run: keylatch install . --tenancy own. Then let "
        "keylatch.admin_workspace_ids() compare auth.jwt() ->> 'sub' with a text column of yours.",
    ),
    (
        "22023",
        'role "([^"]+)" does not exist',
        "the role {0} of the token or the claims does not exist in this database",
        "Use anon, authenticated, service_role or keylatch_resolver. If keylatch_resolver is "
        f"missing: {_INSTALL[0].lower()}{_INSTALL[1:]}",
    ),
    ("22P05", "", None, "Connect with client_encoding=utf8."),
    (
        "25006",
        "",
        None,
        "Send calls that write to the primary: this is a replica or a read-only session.",
    ),
    ("3F000 42883 42P01", "", None, _INSTALL),
    (
        "PGRST106",
        "(.*)",
        "the Data API does not serve the schema keylatch (PGRST106: {0})",
        "Add keylatch to [api] schemas in supabase/config.toml, or in the dashboard to the exposed "
        "schemas of the Data API (db-schemas of PostgREST).",
    ),
    ("PGRST202 PGRST205", "", None, _RELOAD),
    (
        "HTTP401",
        "Invalid API key",
        "the gateway does not know the API key: it is of another project, or was replaced",
        "Copy the key again, from the project of this address: Project Settings > API Keys.",
    ),
    (
        "HTTP404",
        "",
        None,
        "Check the address: the one of a Supabase project's REST API ends in /rest/v1.",
    ),
)


def advise(code: str, message: str, status: int | None) -> Advice:
    """Find what to say where keylatch itself did not speak.

    Args:
        code: A SQLSTATE, a code of PostgREST, or an empty text.
        message: What the server said, masked.
        status: The HTTP status, where there was one.

    Returns:
        The advice; over HTTP the login is that of PostgREST.
    """
    code = code or f"HTTP{status}"
    for starts, said, detail, hint in _ADVICE:
        match = re.search(said, message) if code.startswith(tuple(starts.split())) else None
        if match is not None:
            return Advice(
                None if detail is None else _filled(detail, match, status),
                _filled(hint, match, status),
            )
    return Advice(None, None)


def _filled(text: str, match: re.Match[str], status: int | None) -> str:
    filled = text.format(*match.groups())
    return filled if status is None else filled.replace(LOGIN, "authenticator")
