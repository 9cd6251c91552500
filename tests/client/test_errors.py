"""Errors: the class for each server error, and that no error repeats a key."""

import pickle
import re
from pathlib import Path

import pytest

from client.vectors import SECRET
from keylatch import errors
from keylatch.errors import (
    CLASS_BY_SLUG,
    AdoptionNotReady,
    InvalidArgument,
    KeylatchError,
    KeyNotFound,
    KeyNotUsable,
    LatchViolation,
    NotInstalled,
    PermissionDenied,
    SchemaNotExposed,
    SessionNotFound,
    TooManyRequests,
    Unavailable,
    UnexpectedAnswer,
    error_for,
)

pytestmark = pytest.mark.one_server

MIGRATIONS = Path(__file__).parents[2] / "supabase" / "migrations"

# The SQLSTATE and the class of every slug. Callers rely on both.
CONTRACT: dict[str, tuple[str, type[KeylatchError]]] = {
    "key_not_found": ("PT404", KeyNotFound),
    "key_already_rotated": ("PT409", KeyNotUsable),
    "key_revoked": ("PT409", KeyNotUsable),
    "key_expired": ("PT409", KeyNotUsable),
    "key_suspended": ("PT409", KeyNotUsable),
    "revoked_is_final": ("PT409", LatchViolation),
    "expired_is_final": ("PT409", LatchViolation),
    "superseded_is_final": ("PT409", LatchViolation),
    "column_is_immutable": ("PT409", LatchViolation),
    "keys_are_kept": ("PT409", LatchViolation),
    "events_are_kept": ("PT409", LatchViolation),
    "sealed_at_publisher": ("PT409", LatchViolation),
    "workspace_deleted": ("PT409", LatchViolation),
    "too_many_keys": ("PT409", LatchViolation),
    "read_committed_required": ("0A000", KeylatchError),
    "admin_required": ("42501", PermissionDenied),
    "invalid_argument": ("PT400", InvalidArgument),
    "restore_incomplete": ("PT500", KeylatchError),
    "invalid_api_key": ("PT401", PermissionDenied),
    "invalid_session": ("PT401", PermissionDenied),
    "session_refused": ("PT401", PermissionDenied),
    "session_not_found": ("PT404", SessionNotFound),
    "subject_is_final": ("PT409", LatchViolation),
    "too_many_requests": ("PT429", TooManyRequests),
    "replicas_behind": ("PT504", Unavailable),
    "adoption_not_ready": ("PT409", AdoptionNotReady),
}


def inserted_by_the_migrations() -> dict[str, str]:
    """Return every slug that a migration inserts into the table of errors, with its SQLSTATE."""
    found: dict[str, str] = {}
    for file in sorted(MIGRATIONS.glob("*.sql")):
        text = file.read_text(encoding="utf-8")
        for rows in re.findall(
            r"insert into keylatch_internal\.errors \(slug, code, hint\) values(.*?);\n", text, re.S
        ):
            found.update(re.findall(r"\(\s*'(\w+)', '(\w{5})',", rows))
        for slug in re.findall(r"refuse\(\s*'(\w+)'", text):
            assert slug in found, f"{file.name} raises {slug}, which no migration before it inserts"
    return found


def test_every_slug_that_the_migrations_insert_has_a_class() -> None:
    expected = {slug: state for slug, (state, _) in CONTRACT.items()}
    # Only sql/adoption raises this slug, and no migration installs sql/adoption.
    assert expected.pop("adoption_not_ready") == "PT409"
    assert inserted_by_the_migrations() == expected
    assert {slug: kind for slug, (_, kind) in CONTRACT.items()} == CLASS_BY_SLUG


@pytest.mark.parametrize("slug", CONTRACT)
def test_a_slug_gives_its_class_and_keeps_what_the_database_said(slug: str) -> None:
    state, kind = CONTRACT[slug]
    error = error_for(message=slug, code=state, detail="What is wrong.", hint="What to do.")
    assert type(error) is kind
    assert (error.slug, error.sqlstate) == (slug, state)
    assert (error.detail, error.hint) == ("What is wrong.", "What to do.")
    assert str(error) == f"{slug}: What is wrong. (What to do.)"
    assert not isinstance(error, KeyNotUsable) or error.reason == slug
    assert isinstance(error, ValueError) is (kind is InvalidArgument)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("PT400", InvalidArgument),
        ("PT401", PermissionDenied),
        ("PT403", PermissionDenied),
        ("PT404", KeyNotFound),
        ("PT409", KeyNotUsable),
        ("PT410", KeylatchError),
        ("PT429", Unavailable),
        ("PT503", Unavailable),
    ],
)
def test_a_slug_of_a_newer_schema_gets_the_class_of_its_http_part(
    code: str, kind: type[KeylatchError]
) -> None:
    error = error_for(message="quota_is_spent", code=code, detail="Ten keys.", hint="")
    assert type(error) is kind
    assert (error.slug, error.detail, error.hint) == ("quota_is_spent", "Ten keys.", None)


def test_prose_where_a_slug_belongs_becomes_the_detail() -> None:
    error = error_for(message="Not on a Sunday!", code="PT403", detail="By our own trigger.")
    assert type(error) is PermissionDenied
    assert str(error) == "permission_denied: Not on a Sunday!: By our own trigger."


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("42501", 401, PermissionDenied),
        ("42501", 403, PermissionDenied),
        ("42501", None, PermissionDenied),
        ("28P01", None, PermissionDenied),
        ("22P02", 400, InvalidArgument),
        ("22008", None, InvalidArgument),
        ("23514", 400, InvalidArgument),
        ("23502", None, InvalidArgument),
        ("54001", 413, InvalidArgument),
        ("25006", 405, Unavailable),
        ("40001", None, Unavailable),
        ("40P01", None, Unavailable),
        ("55P03", None, Unavailable),
        ("08006", 503, Unavailable),
        ("53300", 503, Unavailable),
        ("57014", None, Unavailable),
        ("57P01", None, Unavailable),
        ("58030", None, Unavailable),
        ("42883", 404, KeylatchError),
        ("3F000", None, KeylatchError),
        ("42P01", None, KeylatchError),
        ("PGRST202", 404, NotInstalled),
        ("PGRST106", 406, SchemaNotExposed),
        ("PGRST000", 503, Unavailable),
        ("PGRST001", 503, Unavailable),
        ("PGRST002", 503, Unavailable),
        ("PGRST003", 504, Unavailable),
        ("PGRST301", 401, PermissionDenied),
        ("PGRST302", 401, PermissionDenied),
        ("PGRST303", 401, PermissionDenied),
        ("PGRST999", 500, Unavailable),
        ("PGRST203", 300, KeylatchError),
        ("PGRST205", 404, NotInstalled),
        ("PGRST204", 400, InvalidArgument),
        ("PGRST299", 404, KeylatchError),
        ("P0001", 400, KeylatchError),
        ("P0001", None, KeylatchError),
        ("23505", 409, KeylatchError),
        ("25P02", None, KeylatchError),
        ("XX000", None, KeylatchError),
        ("XX000", 500, KeylatchError),
        (None, 302, UnexpectedAnswer),
        (None, 401, PermissionDenied),
        (None, 403, PermissionDenied),
        (None, 404, UnexpectedAnswer),
        (None, 409, UnexpectedAnswer),
        (None, 413, InvalidArgument),
        (None, 429, Unavailable),
        (None, 502, Unavailable),
        (None, 520, Unavailable),
    ],
)
def test_every_error_of_postgresql_postgrest_and_gateways_has_a_class(
    code: str | None, status: int | None, kind: type[KeylatchError]
) -> None:
    error = error_for(message="said", code=code, status=status)
    assert type(error) is kind
    assert error.slug == kind.default_slug
    assert error.sqlstate == (code if code and not code.startswith("PGRST") else None)
    assert error.detail


def test_a_schema_that_is_not_served_names_the_setting() -> None:
    exposed = error_for(message="The schema must be one of: public", code="PGRST106", status=406)
    assert "[api] schemas" in str(exposed)
    assert "exposed schemas" in str(exposed)


MISSING = [
    ("42883", "function keylatch.issue_key(workspace_id => uuid) does not exist"),
    ("42883", "function keylatch_internal.refuse(text, text) does not exist"),
    ("42P01", 'relation "keylatch.keys" does not exist'),
    ("3F000", 'schema "keylatch" does not exist'),
    ("PGRST202", "Could not find the function keylatch.issue_key(key) in the schema cache"),
    ("PGRST205", "Could not find the table 'keylatch.keys' in the schema cache"),
]


@pytest.mark.parametrize(("code", "said"), MISSING)
def test_a_missing_object_of_keylatch_is_not_installed_and_names_the_command(
    code: str, said: str
) -> None:
    error = error_for(message=said, code=code, status=404)
    assert type(error) is NotInstalled
    assert said in str(error.detail)
    assert "keylatch install . --tenancy keylatch && supabase db push" in str(error.hint)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("42883", "function public.plan_of(uuid) does not exist"),
        ("42883", "operator does not exist: text = uuid"),
        ("42P01", 'relation "public.keylatches" does not exist'),
        ("3F000", 'schema "billing" does not exist'),
    ],
)
def test_a_missing_object_of_the_application_is_no_error_of_the_installation(
    code: str, said: str
) -> None:
    error = error_for(message=said, code=code)
    assert type(error) is KeylatchError
    assert (error.slug, error.sqlstate, error.detail) == ("database_error", code, said)


@pytest.mark.parametrize("code", ["PT400", "PT403", "22P02", "22021", "P0001", "XX000", None])
def test_no_error_repeats_a_key(code: str | None) -> None:
    said = f"invalid input syntax for type uuid: \"{SECRET}\"\nQUERY: select '{SECRET}'"
    error = error_for(message=said, code=code, detail=said, hint=said, status=400)
    assert SECRET not in str(error) + repr(error) + repr(vars(error))


def test_the_hint_of_a_gateway_or_of_postgresql_is_passed_on() -> None:
    told = error_for(message="Not from there", code=None, hint="Double check it.", status=401)
    assert str(told) == (
        "permission_denied: HTTP 401 from a server before PostgREST: Not from there "
        "(Double check it.)"
    )
    assert error_for(message="no", code="42501", hint="Only an admin.").hint == "Only an admin."


def test_input_that_postgresql_quotes_is_left_out() -> None:
    told = error_for(message='invalid input syntax for type json: "hunter2"', code="22P02")
    assert "hunter2" not in str(told)
    assert "22P02" in str(told)
    told = error_for(message='invalid input syntax for type uuid: "hunter2"', code="22P02")
    assert "hunter2" not in str(told)
    assert "sub claim is not a UUID" in str(told)
    body = error_for(message="relation gone\nLINE 1: hunter2", code="42703", hint="see\nhunter2")
    assert str(body) == "database_error: relation gone (see)"
    row = error_for(
        message='new row violates check constraint "keys_label_check"',
        code="23514",
        detail="Failing row contains (hunter2).",
    )
    assert "hunter2" not in str(row)
    assert "keys_label_check" in str(row)


@pytest.mark.parametrize(
    "kind",
    [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, Exception)],
    ids=lambda kind: kind.__name__,
)
def test_every_error_survives_a_pickle_and_reads_well_without_its_parts(
    kind: type[KeylatchError],
) -> None:
    error = kind("some_slug", "PT409", "A sentence.", "A hint.")
    received = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert type(received) is kind
    assert vars(received) == vars(error)
    assert repr(received) == repr(error)
    assert repr(error) == f"{kind.__name__}('some_slug', 'PT409', 'A sentence.', 'A hint.')"
    assert str(received) == str(error) == "some_slug: A sentence. (A hint.)"
    assert str(kind()) == kind.default_slug
    assert str(kind(detail="A sentence.")) == f"{kind.default_slug}: A sentence."
