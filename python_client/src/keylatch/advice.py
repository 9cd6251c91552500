"""Advice for errors that PostgreSQL, PostgREST or a gateway raises by itself."""

from __future__ import annotations

import re

LOGIN = "<login>"
"""Placeholder in a hint for the connection's user, whom no server message names."""

CALLS_OF = {
    "events": "list_events seal_events verify_events",
    "usage": "key_usage record_usage",
    "notify": "replay_position wait_for_replicas",
    "sessions": "resolve_session close_session attach_subject prune_sessions end_sessions",
    "legacy": "import_keys declare_scheme end_scheme finish_import upgrade_key legacy_keys "
    "revoke_legacy_key",
}
"""The functions and views of each module that the client calls."""
_INSTALL = (
    "Check that the address names the right database. To install keylatch there, run: keylatch "
    "install . --tenancy keylatch && supabase db push; on plain PostgreSQL: "
    "keylatch apply --platform --tenancy keylatch"
)
_RELOAD = "If keylatch is installed, run in SQL: notify pgrst, 'reload schema'"
_RESOLVES = (
    "resolve_keys?|upgrade_key|(?:resolve|close)_session|attach_subject|record_usage|"
    "replay_position|wait_for_replicas"
)

# The first match wins. A pattern matches `<code> <message>`, or `HTTP <status> <message>` if a
# gateway gave no code. The detail and the hint follow; {0} in them is the pattern's first group.
_ADVICE: dict[str, tuple[str | None, str]] = {
    "PGRST30.*expired": (
        "the token has expired",
        "Send a new token: sign in again, or copy the project's key again.",
    ),
    "PGRST30.*(?i:signature|suitable key|wrong key)": (
        "the token is not signed with this project's secret or key",
        "Send a token of this project. If you sign tokens yourself, use the secret in PostgREST's "
        "PGRST_JWT_SECRET; on Supabase: Project Settings > JWT Keys.",
    ),
    "PGRST301.*(?:parts|[Bb]ase64|JSON|Decode|[Ee]mpty)": (
        "the token is not a JWT",
        "Copy the whole token without quotation marks. A JWT has three parts joined by dots.",
    ),
    '42501 .*set role "([^"]+)"': (
        f"the login {LOGIN} may not act as {{0}}",
        f"Run in SQL: grant {{0}} to {LOGIN};",
    ),
    '42501 .*row-level security policy for table "keys"': (
        "the user does not administer the workspace",
        "Ask an admin of the workspace, or make the user an admin, in your own tables or in SQL: "
        "insert into keylatch.workspace_membership values ('<workspace>', '<user>', 'admin');",
    ),
    f"42501 .*for function ({_RESOLVES})$": (
        "the role of this request may not call {0}",
        "Call it as keylatch_resolver or service_role. To allow a PostgreSQL login, run in SQL: "
        f"grant keylatch_resolver to {LOGIN};",
    ),
    r"42501 .*for function (\w+)$": (
        "the role of this request may not call {0}",
        "Call it with the token of a user who administers the workspace, or with the service key.",
    ),
    "42501 .*for schema keylatch$": (
        f"the login {LOGIN} has no rights in the schema keylatch",
        f"For a service that resolves keys, run in SQL: grant keylatch_resolver to {LOGIN};",
    ),
    "22P02 .*type uuid": (
        "the token's sub claim is not a UUID, and keylatch's tables need a UUID",
        "For tokens of Clerk, Auth0 or Firebase, replace keylatch.admin_workspace_ids() in a "
        "migration: compare auth.jwt() ->> 'sub' with a text column. See sql/docs/own_tenancy.md.",
    ),
    '22023 .*role "([^"]+)" does not exist': (
        "the role {0} in the token or the claims does not exist in this database",
        "Use anon, authenticated, service_role or keylatch_resolver. If keylatch_resolver is "
        f"missing, keylatch is not installed. {_INSTALL}",
    ),
    "22P05": (None, "Connect with client_encoding=utf8."),
    "25P02": (None, "Roll back the transaction, or to a savepoint, before the next call."),
    "25006": (
        None,
        "Send calls that write to the primary: this server is a replica, or the session is "
        "read-only.",
    ),
    **{
        rf"(?:42883|42P01|PGRST20[25]) .*\bkeylatch\.({'|'.join(calls.split())})\b": (
            f"{{0}} belongs to the module {module}, which is not installed.",
            f"Run: keylatch install . --with {module} && supabase db push; on plain PostgreSQL: "
            f"keylatch apply --with {module}. If the module is installed, run in SQL: "
            "notify pgrst, 'reload schema'",
        )
        for module, calls in CALLS_OF.items()
    },
    "3F000|42883|42P01": (None, _INSTALL),
    r"PGRST106 ([^\n]*)": (
        "the Data API does not serve the schema keylatch (PGRST106: {0})",
        "Add keylatch to [api] schemas in supabase/config.toml, to the Data API's exposed schemas "
        "in the dashboard, or to db-schemas of PostgREST.",
    ),
    "PGRST20[25]": (None, f"{_INSTALL}. {_RELOAD}"),
    "HTTP401 .*(?:Invalid|Unregistered) API key": (
        "the gateway does not know the API key: it belongs to another project, or was replaced",
        "Copy the key of the project whose URL you use: Project Settings > API Keys.",
    ),
    "HTTP404": (None, "Check the address: the REST API of a Supabase project ends in /rest/v1."),
}


def advise(code: str, message: str, status: int | None) -> tuple[str | None, str | None]:
    """Find advice for an error that keylatch itself did not raise.

    Args:
        code: A SQLSTATE, a code of PostgREST, or an empty text.
        message: What the server said, masked.
        status: The HTTP status, if there was one. The login is then PostgREST's `authenticator`.

    Returns:
        A detail in place of the server's own sentence, and a hint: what to do. `None` for neither.
    """
    login = LOGIN if status is None else "authenticator"
    for pattern, (detail, hint) in _ADVICE.items():
        match = re.match(pattern, f"{code or f'HTTP{status}'} {message}", re.DOTALL)
        if match is not None:
            filled = (text and text.format(*match.groups()) for text in (detail, hint))
            told, next_step = (text and text.replace(LOGIN, login) for text in filled)
            return told, next_step
    return None, None
