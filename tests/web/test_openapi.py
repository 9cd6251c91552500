"""The OpenAPI description: it is correct, and schemathesis finds no error with it."""

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from keylatch import AsyncKeylatch
from keylatch.fastapi.admin import NewKey
from stack import People
from web.site import Site

pytestmark = pytest.mark.one_server

ROUTES = {
    ("/widget-keys", "post"),
    ("/widget-keys", "get"),
    ("/widget-keys/{key_id}/rotate", "post"),
    ("/widget-keys/{key_id}/revoke", "post"),
    ("/widget/keys/resolve", "post"),
}
# The database has more rules than the schema, so it refuses some values that fit the schema. If a
# path has two routes, Starlette's `Allow` names only one.
EXCLUDED = "positive_data_acceptance,allow_header_conformance"


@pytest.fixture(scope="module")
def described(site: Site) -> dict[str, Any]:
    """The OpenAPI description of the application."""
    description: dict[str, Any] = site.get("/openapi.json").json()
    return description


def operations(described: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (path, method): operation
        for path, methods in described["paths"].items()
        for method, operation in methods.items()
    }


def test_each_route_says_who_may_call_it_and_how_it_refuses(described: dict[str, Any]) -> None:
    found = operations(described)
    assert found.keys() >= ROUTES
    for route in ROUTES:
        operation = found[route]
        assert operation["description"]
        # FastAPI's own 422, which repeats the input, is not among the responses.
        assert "422" not in operation["responses"]
        for status in ("4XX", "502"):
            assert "ProblemBody" in str(operation["responses"][status])
        signed_in: list[object] = [] if "resolve" in route[0] else [{"userToken": []}]
        assert operation.get("security", []) == signed_in
    assert found["/orders", "get"]["security"] == [{"apiKey": []}, {"apiKeyAsBearer": []}]
    schemes = described["components"]["securitySchemes"]
    assert (schemes["apiKey"]["in"], schemes["apiKey"]["name"]) == ("header", "x-api-key")
    assert schemes["apiKeyAsBearer"]["scheme"] == schemes["userToken"]["scheme"] == "bearer"


def test_a_visitor_is_shown_only_one_field(described: dict[str, Any]) -> None:
    schemas = described["components"]["schemas"]
    assert list(schemas["ActiveKey"]["properties"]) == ["environment"]
    assert list(schemas["PresentedKey"]["properties"]) == ["key"]
    assert schemas["PresentedKey"]["properties"]["key"]["writeOnly"] is True


def test_the_body_has_the_arguments_of_the_client_and_their_defaults() -> None:
    arguments = list(inspect.signature(AsyncKeylatch.issue).parameters.values())[1:]
    fields = NewKey.model_fields
    assert [one.name for one in arguments] == list(fields)
    for one in arguments:
        field = fields[one.name]
        assert (one.default is one.empty) is field.is_required()
        # JSON has no tuples. For the client, None is an empty object.
        default = [] if one.default == () else {} if one.name == "metadata" else one.default
        assert field.is_required() or field.default == default


def test_schemathesis_finds_no_500_and_no_answer_that_is_not_described(
    site: Site, tmp_path: Path
) -> None:
    """The caller is service_role: no row policy stops it, so the bodies reach the database."""
    (tmp_path / "schemathesis.toml").write_text(
        f"""
        [parameters]
        "path.key_id" = "{site.issue()["id"]}"
        "query.workspace_id" = "{People.a}"
        """
    )
    result = subprocess.run(
        [
            Path(sys.executable).with_name("schemathesis"),
            *("run", f"{site.base_url}/openapi.json", "--no-color", "--continue-on-failure"),
            *("--header", f"Authorization: Bearer {site.token('service_role')}"),
            *("--phases", "coverage,fuzzing", "--exclude-checks", EXCLUDED),
            *("--max-examples", "10", "--generation-deterministic"),
            *("--warnings", "off", "--include-path-regex", "^/(widget-keys|widget/keys|whoami)"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Traceback" not in site.log.text()
