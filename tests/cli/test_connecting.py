"""Connection and user of the program: options come first, then the environment, then `.env`."""

import pytest

from cli.program import Program
from cli.system import System
from client.answers import FixedServer
from stack import Cluster, Tokens
from stack.tools import ROOT

pytestmark = pytest.mark.one_server

NOWHERE = "http://127.0.0.1:9"
NO_DATABASE = "postgresql://postgres:hunter2@127.0.0.1:9/postgres"
KEY_NAMES = [
    "SUPABASE_KEY",
    "SUPABASE_SECRET_KEY",
    "SUPABASE_SERVICE_ROLE_KEY",
    "SUPABASE_SERVICE_KEY",
]


def lists(program: Program, system: System) -> bool:
    """Whether the program reaches the system, and not the unreachable URL in the other source."""
    result = program("list", system.people.a, "--json", code=None)
    assert result.code in (0, 4), result
    return result.code == 0


def write_dotenv(program: Program, text: str) -> None:
    """Write a `.env` into the directory of the program."""
    (program.directory / ".env").write_text(text, encoding="utf-8")


@pytest.mark.parametrize("name", KEY_NAMES)
def test_every_usual_name_of_a_secret_key_is_known(
    program: Program, system: System, name: str
) -> None:
    variables = {"SUPABASE_URL": system.rest.url, name: system.rest.service_key}
    assert lists(program.having(**variables), system)


def test_the_first_of_several_keys_in_the_documented_order_counts(
    program: Program, system: System
) -> None:
    names = [*KEY_NAMES, "SUPABASE_PUBLISHABLE_KEY", "SUPABASE_ANON_KEY"]
    token = {"KEYLATCH_TOKEN": system.people.token("alice")}
    with FixedServer(200, b"[]") as server:
        for place, name in enumerate(names):
            there = program.having(
                SUPABASE_URL=server.url, **token, **{one: f"of-{one}" for one in names[place:]}
            )
            there("list", system.people.a)
            assert server.requests[-1][2]["apikey"] == f"of-{name}"
    readme = (ROOT / "python_client" / "README.md").read_text("utf-8")
    listed = readme[readme.index(f"`{names[0]}`, ") :]
    assert [listed.index(f"`{name}`") for name in names] == sorted(
        listed.index(f"`{name}`") for name in names
    )


@pytest.mark.parametrize("name", ["SUPABASE_KEY", "SUPABASE_SECRET_KEY"])
def test_a_secret_key_that_is_no_jwt_goes_into_apikey_alone(
    program: Program, system: System, name: str
) -> None:
    variables = {"SUPABASE_URL": system.rest.url, name: system.rest.secret_key}
    assert lists(program.having(**variables), system)
    with FixedServer(200, b"[]") as server:
        program.having(**variables | {"SUPABASE_URL": server.url})("list", system.people.a)
        ((_, _, headers, _),) = server.requests
    assert headers["apikey"] == system.rest.secret_key
    assert "authorization" not in headers
    assert "Mozilla" not in headers["user-agent"]


def test_a_publishable_key_goes_beside_the_token_of_a_user(
    program: Program, system: System
) -> None:
    alice = program.having(
        SUPABASE_URL=system.rest.url,
        SUPABASE_PUBLISHABLE_KEY=system.rest.publishable_key,
        KEYLATCH_TOKEN=system.people.token("alice"),
    )
    assert lists(alice, system)


def test_a_public_key_counts_only_with_a_token(program: Program, system: System) -> None:
    public = program.having(SUPABASE_URL=system.rest.url, SUPABASE_ANON_KEY=system.rest.anon_key)
    refused = public("list", system.people.a, code=2)
    assert refused.err.startswith("usage: a project is set, but no key or token for it\n")
    both = public.having(DATABASE_URL=system.database.url)
    assert lists(both, system)
    assert both("list", system.people.a).err.startswith("This command uses DATABASE_URL, because ")
    assert lists(public.having(KEYLATCH_TOKEN=system.people.token("alice")), system)


def test_without_a_key_the_url_is_that_of_a_postgrest(program: Program, system: System) -> None:
    bare = program.having(KEYLATCH_TOKEN=system.people.token("alice"))
    assert lists(bare.having("--url", system.rest.rest_url), system)
    mistaken = bare("list", system.people.a, "--url", system.rest.url, code=5)
    assert mistaken.err.startswith("unexpected_answer: ")


@pytest.mark.parametrize("end", ["", "/", "/rest/v1", "/rest/v1/"])
def test_the_url_of_a_project_may_be_written_in_more_than_one_way(
    program: Program, system: System, end: str
) -> None:
    there = program.having(SUPABASE_KEY=system.rest.service_key)
    assert lists(there.having("--url", system.rest.url + end), system)


def test_an_option_wins_over_the_environment(program: Program, system: System) -> None:
    rest = program.having(SUPABASE_URL=NOWHERE, SUPABASE_KEY=system.rest.service_key)
    assert not lists(rest, system)
    assert lists(rest.having("--url", system.rest.url), system)
    assert lists(rest.having("--db-url", system.database.url), system)
    database = program.having(DATABASE_URL=NO_DATABASE)
    assert not lists(database, system)
    assert lists(database.having("--db-url", system.database.url), system)


def test_the_environment_wins_over_dotenv(program: Program, system: System) -> None:
    write_dotenv(program, f"SUPABASE_URL={NOWHERE}\nSUPABASE_KEY={system.rest.service_key}\n")
    assert not lists(program, system)
    assert lists(program.having(SUPABASE_URL=system.rest.url), system)
    assert lists(program.having(DATABASE_URL=system.database.url), system)


def test_the_project_wins_over_the_database(program: Program, system: System) -> None:
    both = program.having(
        SUPABASE_URL=system.rest.url,
        SUPABASE_KEY=system.rest.service_key,
        DATABASE_URL=NO_DATABASE,
    )
    assert lists(both, system)
    assert not lists(both.having("--as-user", str(system.people.alice)), system)


def test_make_up_prints_a_dotenv_that_works(program: Program, system: System) -> None:
    write_dotenv(
        program,
        f"SUPABASE_URL={system.rest.url}\nSUPABASE_PUBLISHABLE_KEY={system.rest.anon_key}\n"
        f"SUPABASE_KEY={system.rest.service_key}\n"
        f"KEYLATCH_ADMIN_TOKEN={system.people.token('alice')}\n"
        f"KEYLATCH_WORKSPACE_ID={system.people.a}\nDATABASE_URL={system.database.url}\n",
    )
    issued = program.ok("issue", "--kind", "secret")
    assert program.ok("resolve", stdin=issued["key"])["key_id"] == issued["id"]


@pytest.mark.parametrize(
    "line",
    [
        "DATABASE_URL={}",
        "DATABASE_URL = '{}'  # of this machine",
        '  export DATABASE_URL="{}"',
        "# DATABASE_URL=x\r\nnonsense\r\nDATABASE_URL={} # a comment\r",
        "\ufeffDATABASE_URL={}",
        f"DATABASE_URL={NO_DATABASE}\nDATABASE_URL={{}}",
    ],
)
def test_a_dotenv_is_read_as_usual(program: Program, system: System, line: str) -> None:
    write_dotenv(program, line.format(system.database.url) + "\n")
    assert lists(program, system)


def test_a_dotenv_that_is_no_text_or_no_file_is_none(program: Program, system: System) -> None:
    (program.directory / ".env").write_bytes(b"DATABASE_URL=\xff\n")
    program("list", system.people.a, code=2)
    (program.directory / ".env").unlink()
    (program.directory / ".env").mkdir()
    program("list", system.people.a, code=2)


def test_a_key_of_the_file_goes_to_an_address_of_the_environment(
    program: Program, system: System
) -> None:
    write_dotenv(program, f"SUPABASE_KEY={system.rest.service_key}\n")
    assert lists(program.having(SUPABASE_URL=system.rest.url), system)


@pytest.mark.parametrize("name", ["KEYLATCH_TOKEN", *KEY_NAMES])
def test_a_secret_of_the_environment_does_not_go_to_an_address_of_the_file(
    program: Program, system: System, name: str
) -> None:
    """Threat: a cloned repository brings a .env with an address of its own."""
    with FixedServer(200, b"[]") as server:
        write_dotenv(program, f"SUPABASE_URL={server.url}\nSUPABASE_KEY=x\n")
        refused = program.having(**{name: "hunter2"})("list", system.people.a, code=2)
        assert refused.err.startswith("usage: SUPABASE_URL comes from .env, but the key or")
        refused = program("list", system.people.a, "--token", "hunter2", code=2)
        assert refused.err.startswith("usage: SUPABASE_URL comes from .env")
        assert server.requests == []


def test_a_key_goes_over_http_to_this_machine_or_a_typed_address_alone(
    program: Program, system: System
) -> None:
    for url in ("http://project.example", "http://localhost.example", "HTTP://192.0.2.1:54321"):
        there = program.having(SUPABASE_URL=url, SUPABASE_KEY="hunter2")
        refused = there("list", system.people.a, code=2)
        assert refused.err.startswith("usage: SUPABASE_URL uses http, ")
        assert "hunter2" not in refused.err
    for url in ("http://localhost:9", "http://127.0.0.1:9", "http://[::1]:9"):
        program.having(SUPABASE_URL=url, SUPABASE_KEY="x")("list", system.people.a, code=4)
    typed = program.having("--url", "http://keylatch.invalid", SUPABASE_KEY="x")
    typed("list", system.people.a, code=4)


def test_acting_as_a_user_is_what_that_user_may(program: Program, system: System) -> None:
    there = program.having(DATABASE_URL=system.database.authenticator_url)
    alice = there.having("--as-user", str(system.people.alice))
    issued = alice.ok("issue", system.people.a)
    assert issued["created_by"] == str(system.people.alice)
    for who in (system.people.bob, system.people.mia, system.people.stranger):
        other = there.having("--as-user", str(who))
        assert other("show", issued["id"], code=1).err.startswith("key_not_found: ")
        assert other("issue", system.people.a, code=3).err.startswith("permission_denied: ")
    assert there("show", issued["id"], code=3).out == ""


def test_a_database_url_alone_acts_as_its_own_user(program: Program, system: System) -> None:
    owner = program.having(DATABASE_URL=system.database.url)
    assert owner.ok("issue", system.people.b)["created_by"] is None


@pytest.mark.parametrize(
    "options",
    [
        ("--db-url", NO_DATABASE, "--url", NOWHERE),
        ("--db-url", NO_DATABASE, "--token", "x"),
        ("--as-user", "57a63e00-0000-4000-8000-000000000004", "--key", "x"),
    ],
)
def test_two_connections_at_once_are_refused(program: Program, options: tuple[str, ...]) -> None:
    refused = program("list", "x", *options, code=2)
    assert refused.err.startswith("usage: --db-url and --as-user cannot be combined with --url, ")


@pytest.mark.parametrize("options", [(), ("--token", "x"), ("--as-user", "x")])
def test_no_connection_at_all_is_a_mistake_that_says_what_to_set(
    program: Program, options: tuple[str, ...]
) -> None:
    refused = program("list", "x", *options, code=2)
    assert refused.err.startswith("usage: no ")
    assert "DATABASE_URL" in refused.err


def test_a_url_that_was_given_needs_its_key_whatever_else_is_set(
    program: Program, system: System
) -> None:
    there = program.having(DATABASE_URL=system.database.url)
    refused = there("list", system.people.a, "--url", system.rest.url, code=2)
    assert refused.err.startswith("usage: a project is set, but no key or token for it")


def test_a_user_who_is_no_uuid_is_refused(program: Program, system: System) -> None:
    there = program.having(DATABASE_URL=system.database.authenticator_url)
    refused = there("list", system.people.a, "--as-user", "alice", code=2)
    assert refused.err.startswith("invalid_argument: as-user is not a UUID\n")


@pytest.mark.parametrize(
    "url", ["ftp://x", "http://", "http://[::1", "127.0.0.1:3000", "http://x:port", NO_DATABASE]
)
def test_an_invalid_address_is_refused(program: Program, url: str) -> None:
    there = program.having(SUPABASE_URL=url, SUPABASE_KEY="x")
    refused = there("list", "a", code=2)
    assert refused.err.startswith("usage: the address of the project is not an http")
    assert "hunter2" not in refused.err


def refused(program: Program, *arguments: object, code: int, detail: str, hint: str) -> str:
    """Run the program, check its error and hint, and that no secret is shown; return the output."""
    said = program(*arguments, code=code).err
    assert detail in said.splitlines()[0]
    assert hint in said.splitlines()[1]
    assert "hunter2" not in said
    return said


def test_a_key_that_was_copied_badly_is_named_by_its_variable(
    program: Program, system: System
) -> None:
    key = system.rest.service_key
    wrong: list[tuple[str, int, str, str]] = [
        (f'"{key}"', 2, "SUPABASE_KEY has quotation marks", "Remove the quotation marks."),
        (f"{key}\n", 2, "SUPABASE_KEY has a space, a line break", "Copy the whole value"),
        ("abc", 3, "SUPABASE_KEY is not a JWT", "Copy the whole token"),
        (Tokens().service_key, 3, "SUPABASE_KEY is not signed with", "PGRST_JWT_SECRET"),
        (
            system.rest.token(role="service_role", seconds=-3600),
            3,
            "SUPABASE_KEY has expired",
            "copy",
        ),
    ]
    for value, code, detail, hint in wrong:
        there = program.having(SUPABASE_URL=system.rest.url, SUPABASE_KEY=value)
        refused(there, "list", system.people.a, code=code, detail=detail, hint=hint)
    old = system.rest.token(system.people.alice, seconds=-3600)
    there = program.having(SUPABASE_URL=system.rest.url, SUPABASE_ANON_KEY=system.rest.anon_key)
    for options, name in (((), "KEYLATCH_TOKEN"), (("--token", old), "--token")):
        with_token = there.having(KEYLATCH_TOKEN=old) if not options else there
        refused(
            with_token, "list", system.people.a, *options,
            code=3, detail=f"{name} has expired", hint="sign in again",
        )  # fmt: skip


def test_the_key_of_another_project_is_named_before_it_is_sent(
    program: Program, system: System
) -> None:
    key = system.rest.token(role="service_role", ref="a" * 20)
    there = program.having(SUPABASE_URL=f"https://{'b' * 20}.supabase.co", SUPABASE_KEY=key)
    detail = f"SUPABASE_KEY belongs to the project {'a' * 20}, but the address belongs to"
    refused(there, "list", system.people.a, code=2, detail=detail, hint="from the same project")
    for words in (b"Invalid API key", b"Unregistered API key"):
        with FixedServer(401, b'{"message": "%s"}' % words) as server:
            there = program.having(SUPABASE_URL=server.url, SUPABASE_KEY=system.rest.service_key)
            detail = "the gateway does not know SUPABASE_KEY: it belongs to another project"
            refused(there, "issue", system.people.a, code=3, detail=detail, hint="Copy the key of")


def test_a_database_url_says_what_is_wrong_with_it(
    program: Program, system: System, server: Cluster
) -> None:
    url, password = system.database.url, server.passwords["postgres"]
    wrong = [
        (url.replace(f"/{system.database.name}?", "/nope?"), 4, "database nope does not", "psql"),
        (url.replace("=disable", "=require"), 4, "the server has no SSL", "sslmode=disable"),
        (url.replace("ql://", "ql+psycopg://"), 2, "begins with postgresql+psycopg://", "Begin"),
        ("http://127.0.0.1", 2, "is the address of a web server", "SUPABASE_URL"),
        (f'"{url}"', 2, "DATABASE_URL begins with a quotation mark", "Remove the quotation marks"),
        (url.replace(password, "hunter2"), 3, "password authentication failed", "python3 -c"),
        *(
            (url.replace(password, text), 2, "DATABASE_URL is not a valid URL: its", "python3")
            for text in ("hunter2@", "hunter2/", "hunter2%", "hunter2 x", "#hunter2@h:x")
        ),
    ]
    for value, code, detail, hint in wrong:
        there = program.having(DATABASE_URL=value)
        refused(there, "list", system.people.a, code=code, detail=detail, hint=hint)


def test_a_login_without_the_grant_is_told_the_sql_with_its_name(
    program: Program, system: System, server: Cluster
) -> None:
    owner = system.database.connect(superuser=True)
    owner.execute("create role \"Shop 1\" login password 'x'")
    login = system.database.url.replace(f"postgres:{server.passwords['postgres']}", "Shop%201:x")
    there = program.having(DATABASE_URL=login)
    said = there("resolve", stdin="x", code=3).err
    assert 'the login "Shop 1" has no rights in the schema keylatch' in said
    owner.execute(said.partition("run in SQL: ")[2].encode())
    there("resolve", stdin="x", code=1)
    owner.execute('drop role "Shop 1"')


def test_a_service_login_is_told_that_a_command_needs_the_owner(
    program: Program, system: System, server: Cluster
) -> None:
    superuser = system.database.connect(superuser=True)
    superuser.execute("create role shop login password 'x'")
    superuser.execute("grant keylatch_resolver to shop")
    login = system.database.url.replace(f"postgres:{server.passwords['postgres']}", "shop:x")
    workspace, key_id = system.people.a, "00000000-0000-4000-8000-000000000000"
    for words in (
        *(("issue", workspace), ("list", workspace), ("rotate", key_id), ("legacy", workspace)),
        *(("revoke", key_id, "--yes"), ("apply",), ("audit",), ("uninstall",)),
        *(("revocations", "export"), ("installation", "renew", "--yes")),
    ):
        for name, there in (
            ("DATABASE_URL", program.having(DATABASE_URL=login)),
            ("--db-url", program.having("--db-url", login)),
        ):
            assert there(*words, code=3).err == (
                f"permission_denied: {name} logs in as shop; this command needs the owner's login."
                f"\nhint: Set {name} to the login of postgres, who owns keylatch.\n"
            ), words
    service = program.having(DATABASE_URL=login)
    service("resolve", stdin="x", code=1)
    service("explain", stdin="x", code=1)
    assert "database" in service("installation").out
    # The owner, and a member of the owner's role, may run these commands.
    superuser.execute("grant postgres to shop")
    service("list", workspace)
    service("revocations", "export")
    superuser.execute("drop role shop")


def test_a_dotenv_takes_nothing_of_the_environment_into_an_address(
    program: Program, system: System
) -> None:
    """Threat: a cloned repository sends what only the environment has to an address of its own."""
    with FixedServer(200, b"[]") as server:
        text = f"SUPABASE_URL={server.url}/${{HOUSE}}\nSUPABASE_KEY=$HOUSE\n"
        write_dotenv(program, text)
        program.having(HOUSE="hunter2")("list", system.people.a, code=None)
        assert server.requests
        assert "hunter2" not in str(server.requests)
