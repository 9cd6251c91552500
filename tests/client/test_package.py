"""The package as a whole: what its import loads, and that both clients have the same methods."""

import asyncio
import inspect
import json
import subprocess
import sys
import tomllib
from importlib.metadata import metadata, version
from pathlib import Path
from typing import get_type_hints

import pytest

import keylatch
from client.imports import import_graph
from keylatch import AsyncKeylatch, Keylatch
from keylatch.calls import Calls
from keylatch.transports import finish, is_one_of

pytestmark = pytest.mark.one_server

PACKAGE = Path(keylatch.__file__).parent
PROJECT = Path(__file__).parents[2] / "python_client"
METHODS = sorted(name for name in dir(Keylatch) if not name.startswith("_"))
LIBRARIES = {"supabase", "postgrest", "httpx", "pydantic", "asyncio"}
LIBRARIES |= {"psycopg", "psycopg_pool", "sqlalchemy", "asyncpg"}

# `make bench` measures the time of the import. The time depends on the loaded modules.
IMPORT = """
import json, sys
before = set(sys.modules)
import keylatch
from keylatch import *
print(json.dumps(sorted({name.partition(".")[0] for name in set(sys.modules) - before})))
"""


def test_importing_the_client_loads_no_library() -> None:
    loaded = set(json.loads(subprocess.check_output([sys.executable, "-I", "-c", IMPORT])))
    assert not LIBRARIES & loaded
    assert loaded - set(sys.stdlib_module_names) == {"keylatch"}


def test_importing_the_client_loads_the_calls_and_no_transport() -> None:
    """A transport is loaded with its first client; cache, usage and FastAPI only on request."""
    code = (
        "import sys, keylatch\n"
        "print(*(m.__file__ for n, m in sys.modules.items() if n.partition('.')[0] == 'keylatch'))"
    )
    output = subprocess.check_output([sys.executable, "-I", "-c", code], text=True)
    files = [Path(name) for name in output.split()]
    assert [file.parent.name for file in files if file.parent != PACKAGE] == ["transports"]
    assert sum(len(file.read_text("utf-8").splitlines()) for file in files) <= 2500


def test_a_library_that_is_not_loaded_is_not_loaded_to_refuse_an_object() -> None:
    code = (
        "import sys, keylatch\n"
        "for kind in (keylatch.Keylatch, keylatch.AsyncKeylatch):\n"
        "    for make in sorted(name for name in dir(kind) if name.startswith('from_')):\n"
        "        try: getattr(kind, make)(object())\n"
        "        except TypeError as error: print(error)\n"
        f"assert not set({sorted(LIBRARIES)!r}) & sys.modules.keys()\n"
    )
    output = subprocess.check_output([sys.executable, "-I", "-c", code], text=True).splitlines()
    assert len(output) == 9
    assert output[3] == "expected supabase.Client, not builtins.object"
    assert output[6] == (
        "expected psycopg.AsyncConnection or psycopg_pool.AsyncConnectionPool, not builtins.object"
    )


def test_the_version_has_one_source_and_nothing_else_is_required() -> None:
    assert version("keylatch") == keylatch.__version__
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert project["dependencies"] == []
    assert "version" in project["dynamic"]
    requires = metadata("keylatch").get_all("Requires-Dist") or []
    assert all("extra ==" in one for one in requires)
    assert (PACKAGE / "py.typed").exists()


def test_every_exported_name_is_there_and_documented() -> None:
    assert set(keylatch.__all__) >= {
        "Keylatch",
        "AsyncKeylatch",
        "Secret",
        "hash_key",
        "fingerprint",
        "matches_hash",
        "parse_key",
        "ParsedKey",
        "models",
        "errors",
        "__version__",
    }
    for name in keylatch.__all__:
        assert getattr(keylatch, name).__doc__


def test_both_clients_have_the_methods_of_the_contract() -> None:
    awaited = sorted(name for name in dir(AsyncKeylatch) if not name.startswith("_"))
    assert awaited == sorted([*METHODS, "from_asyncpg"]), "asyncpg has no blocking form"
    assert set(METHODS) >= {
        *("from_supabase", "from_postgrest", "from_psycopg", "from_sqlalchemy"),
        *("issue", "issue_many", "rotate", "revoke", "suspend", "unsuspend", "list", "show"),
        *("retire_workspace", "resolve", "resolve_many", "explain", "installation"),
        *("events", "seal_events", "verify_events", "record_usage", "usage"),
        *("replay_position", "wait_for_replicas"),
        *("resolve_session", "close_session", "attach_subject", "prune_sessions", "end_sessions"),
        *("import_keys", "declare_scheme", "end_scheme", "finish_import"),
        *("upgrade_key", "legacy_keys", "revoke_legacy_key"),
    }


@pytest.mark.parametrize("name", METHODS)
def test_a_method_has_one_signature_and_one_text_in_both_clients(name: str) -> None:
    blocking, awaited = getattr(Keylatch, name), getattr(AsyncKeylatch, name)
    assert blocking.__doc__ is awaited.__doc__
    assert blocking.__doc__
    assert inspect.iscoroutinefunction(awaited) is not name.startswith("from_")
    one, other = inspect.signature(blocking), inspect.signature(awaited)
    if name.startswith("from_"):
        # One takes the sync object, the other the async object. All else is the same.
        names = [(p.name, p.kind, p.default) for p in one.parameters.values()]
        assert names == [(p.name, p.kind, p.default) for p in other.parameters.values()]
    else:
        assert one == other
        assert all(p.kind is p.KEYWORD_ONLY for p in list(one.parameters.values())[2:]), (
            "all that follows the subject is given by name"
        )


@pytest.mark.parametrize("name", [name for name in METHODS if not name.startswith("from_")])
def test_a_text_describes_every_parameter_what_comes_back_and_its_source(name: str) -> None:
    method = getattr(Keylatch, name)
    text = inspect.getdoc(method) or ""
    for parameter in list(inspect.signature(method).parameters)[1:]:
        assert f"    {parameter}: " in text
    assert "Returns:" in text
    # The functions and views whose names differ from the method's name.
    source = {"list": "list_keys", "show": "keys", "events": "list_events", "usage": "key_usage"}
    source |= {"issue_many": "issue_keys", "resolve_many": "resolve_keys"}
    source |= {name: f"{name}_key" for name in ("issue", "rotate", "revoke", "suspend")}
    source |= {name: f"{name}_key" for name in ("unsuspend", "resolve", "explain")}
    assert f"`keylatch.{source.get(name, name)}`" in text.partition("Returns:")[2]
    declared = vars(Calls)[name]
    assert get_type_hints(method) == get_type_hints(declared), "the method is as it is declared"
    assert inspect.signature(method) == inspect.signature(declared)


def test_a_value_is_recognised_by_module_and_class_alone() -> None:
    assert is_one_of(Path(), "nothing.Nothing", "pathlib.Path")
    assert not is_one_of(Path(), "pathlib.Nothing", "nothing.Path", "pathlib.__doc__")


def test_a_blocking_call_that_would_wait_for_an_event_loop_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="event loop"):
        finish(asyncio.sleep(0))


def test_the_readme_shows_what_imports_what_and_no_arrow_points_up() -> None:
    graph = import_graph(PACKAGE.parent)
    assert f"```\n{graph}\n```" in (PROJECT / "README.md").read_text("utf-8"), graph
    seen: set[str] = set()
    for unit, *imported in map(str.split, graph.splitlines()):
        assert not seen & set(imported), unit
        seen.add(unit)
    client = [line for line in graph.splitlines() if not line.startswith("keylatch_cli")]
    assert len(client) > 15
    assert "keylatch_cli" not in "".join(client), "the client imports no tool"
