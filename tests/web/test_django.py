"""The guide for Django: the tests run a real project that follows the guide."""

import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg
import pytest
from psycopg import sql

from client.vectors import mistyped
from client.watched import Watched, watched_database
from keylatch import Keylatch, fingerprint
from stack import Janitor, People, Tokens
from stack.ports import free_port
from stack.tools import ROOT

pytestmark = pytest.mark.one_server

GUIDE = ROOT / "sql" / "docs" / "django.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_START_SECONDS = 60.0

# A project before it follows the guide, and a view that does what the guide warns against.
SETTINGS = """
import os
SECRET_KEY = "of this test"
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "shop.urls"
INSTALLED_APPS = ["shop"]
MIDDLEWARE = []
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        **{name: os.environ[f"SHOP_{name}"] for name in ("NAME", "USER", "HOST", "PORT")},
        "OPTIONS": {"sslmode": "disable"},
        "CONN_MAX_AGE": None,
        "CONN_HEALTH_CHECKS": True,
    }
}
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "DEBUG"},
}
DEBUG = True
"""
MODELS = """
from django.db import models

class Customer(models.Model):
    name = models.TextField()
    email = models.TextField(unique=True, null=True)
    key_id = models.UUIDField(null=True)
"""
URLS = """
from django.db import connection, transaction
from django.http import JsonResponse
from django.urls import path
from keylatch import Keylatch
from shop import views

def unwise(request):
    with connection.cursor() as cursor:
        cursor.execute("select length(%s)", [request.GET["text"]])
    return JsonResponse({})

@transaction.atomic
def first(request):
    connection.ensure_connection()
    client = Keylatch.from_psycopg(connection.connection, claims={"role": "service_role"})
    issued = client.issue(request.GET["workspace"])
    if "fail" in request.GET:
        raise RuntimeError(f"after {issued.id}")
    return JsonResponse({"id": str(issued.id)})

urlpatterns = [
    path("first", first),
    path("customers", views.add_customer),
    path("api/whoami", views.whoami),
    path("unwise", unwise),
]
"""
# Unlike Django's runserver, this server keeps its database connection between requests.
SERVE = """
import sys
from wsgiref.simple_server import make_server
from django.core.wsgi import get_wsgi_application
make_server("127.0.0.1", int(sys.argv[1]), get_wsgi_application()).serve_forever()
"""


class Shop(httpx.Client):
    """A client of the running project.

    Attributes:
        watched: The database of the project.
        owner: A connection as the superuser.
        log: The file with the log of Django.
    """

    def __init__(self, url: str, watched: Watched, log: Path) -> None:
        """Store the address of the server."""
        super().__init__(base_url=url, timeout=60)
        self.watched = watched
        self.owner = watched.database.connect(superuser=True)
        self.log = log

    def add(self, name: str, email: str) -> httpx.Response:
        """Add a customer in workspace A."""
        form = {"name": name, "email": email, "workspace_id": str(People.a)}
        return self.post("/customers", data=form)

    def whoami(self, key: str | None) -> httpx.Response:
        """Call the API with a key, or without a key."""
        return self.get("/api/whoami", headers={} if key is None else {"x-api-key": key})

    def count(self) -> tuple[int, int]:
        """Return the number of customers and the number of keys."""
        customers, keys = self.owner.execute(
            "select (select count(*) from shop_customer),"
            " (select count(*) from keylatch_internal.keys)"
        ).fetchone() or (0, 0)
        return customers, keys


def write_project(directory: Path) -> list[str]:
    """Write the guide's files. Return the SQL that the guide tells the reader to run."""
    package = directory / "shop"
    package.mkdir()
    for name, text in (
        ("__init__", ""),
        ("settings", SETTINGS),
        ("models", MODELS),
        ("urls", URLS),
    ):
        (package / f"{name}.py").write_text(text, "utf-8")
    statements, files = [], []
    for language, text in BLOCK.findall(GUIDE.read_text("utf-8")):
        if language == "sql":
            statements.append(text)
        else:
            assert language == "python"
            name = text.splitlines()[0].removeprefix("# ")
            files.append(name)
            with (directory / name).open("a", encoding="utf-8") as file:
                file.write(text)
    assert files == ["shop/keys.py", "shop/middleware.py", "shop/settings.py", "shop/views.py"]
    return statements


@contextmanager
def served(watched: Watched, janitor: Janitor) -> Iterator[Shop]:
    """Start the project on a free port, and stop it at the end."""
    directory = janitor.make_directory()
    statements = write_project(directory)
    database = watched.database
    with psycopg.connect(database.superuser_url, autocommit=True) as superuser:
        superuser.execute("create role django login password 'of this test'")
        name = sql.Identifier(database.name)
        superuser.execute(sql.SQL("grant create on database {} to django").format(name))
        superuser.execute("grant create, usage on schema public to django")
        for statement in statements:
            superuser.execute(statement.encode())
    environment = {
        **os.environ,
        "PYTHONPATH": str(directory),
        "PYTHONUNBUFFERED": "1",
        "DJANGO_SETTINGS_MODULE": "shop.settings",
        "PGPASSWORD": "of this test",
        "SHOP_NAME": database.name,
        "SHOP_USER": "django",
        "SHOP_HOST": database.server.host,
        "SHOP_PORT": str(database.server.port),
    }
    log, port = directory / "shop.log", free_port()
    django = [sys.executable, "-m", "django"]
    migrate = janitor.start(
        [*django, "migrate", "--run-syncdb"],
        signals=[signal.SIGTERM],
        output=log,
        environment=environment,
    )
    assert migrate.wait(_START_SECONDS) == 0, log.read_text()
    process = janitor.start(
        [sys.executable, "-c", SERVE, str(port)],
        signals=[signal.SIGTERM],
        output=log,
        environment=environment,
    )
    try:
        with Shop(f"http://127.0.0.1:{port}", watched, log) as shop:
            deadline = time.monotonic() + _START_SECONDS
            while True:
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                try:
                    shop.get("/unwise?text=up")
                except httpx.ConnectError:
                    time.sleep(0.05)
                else:
                    break
            yield shop
    finally:
        janitor.end(process)
        janitor.remove_directory(directory)


@pytest.fixture(scope="module")
def shop(tokens: Tokens, janitor: Janitor) -> Iterator[Shop]:
    """The guide's project on a server that logs every statement."""
    with watched_database(tokens, janitor) as watched, served(watched, janitor) as shop:
        yield shop


def test_a_key_that_the_view_issued_opens_the_api(shop: Shop) -> None:
    added = shop.add("Ann", "ann@shop.example")
    assert added.status_code == 201, added.text
    answer = shop.whoami(added.json()["key"])
    assert (answer.status_code, answer.json()) == (200, {"workspace_id": str(People.a)})


def test_a_transaction_that_is_rolled_back_leaves_no_key(shop: Shop) -> None:
    assert shop.add("Bea", "bea@shop.example").status_code == 201
    before = shop.count()
    assert shop.add("Bob", "bea@shop.example").status_code == 500
    assert "IntegrityError" in shop.log.read_text()
    assert shop.count() == before


def test_a_key_issued_as_the_first_statement_of_atomic_is_rolled_back_with_it(shop: Shop) -> None:
    before = shop.count()
    failed = shop.get("/first", params={"workspace": str(People.a), "fail": "yes"})
    assert failed.status_code == 500
    assert "RuntimeError: after " in shop.log.read_text(), "the key had been issued"
    assert shop.count() == before
    kept = shop.get("/first", params={"workspace": str(People.a)})
    assert kept.status_code == 200, kept.text
    assert shop.count() == (before[0], before[1] + 1)


def test_only_the_log_of_the_service_says_why_a_key_is_refused(shop: Shop) -> None:
    added = shop.add("Cid", "cid@shop.example").json()
    admin = Keylatch.from_psycopg(shop.owner, claims=shop.watched.people.claims("alice"))
    admin.revoke(added["id"])
    for key, reason in (
        (added["key"], f"revoked, key id {added['id']}"),
        (mistyped(added["key"]), "checksum_failed, key id None"),
        (None, "malformed, key id None"),
    ):
        answer = shop.whoami(key)
        assert (answer.status_code, answer.json()) == (
            401,
            {"detail": "This key is not accepted."},
        )
        line = f"key refused: {reason}, fingerprint {fingerprint(key or '')}"
        assert line in shop.log.read_text()


def test_an_error_of_keylatch_is_answered_by_its_slug_and_leaves_nothing(shop: Shop) -> None:
    before = shop.count()
    answer = shop.add("x" * 201, "dan@shop.example")
    assert (answer.status_code, answer.json()) == (400, {"slug": "invalid_argument"})
    assert shop.count() == before


def test_an_error_in_the_middleware_is_answered_like_one_of_a_view(shop: Shop) -> None:
    key = shop.add("Fay", "fay@shop.example").json()["key"]
    function = "execute on function keylatch.resolve_key(text, text)"
    shop.owner.execute(f"revoke {function} from keylatch_resolver".encode())
    try:
        answer = shop.whoami(key)
    finally:
        shop.owner.execute(f"grant {function} to keylatch_resolver".encode())
    assert answer.status_code == 502
    assert shop.whoami(key).status_code == 200


def test_a_connection_that_was_lost_is_replaced(shop: Shop) -> None:
    key = shop.add("Gus", "gus@shop.example").json()["key"]
    assert shop.whoami(key).status_code == 200
    ended = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'django'"
    assert shop.owner.execute(ended).fetchall() != []
    # Without CONN_HEALTH_CHECKS, the first answer is 502.
    assert [shop.whoami(key).status_code for _ in range(3)] == [200, 200, 200]


def test_no_key_is_in_what_the_server_and_django_show(shop: Shop) -> None:
    keys = [shop.add("Eve", "eve@shop.example").json()["key"]]
    assert shop.whoami(keys[0]).status_code == 200
    shop.get("/unwise", params={"text": "by-way-of-django"})
    shown = shop.watched.shown() + shop.log.read_text()
    assert "select length('by-way-of-django')" in shown, "so Django itself would show a key"
    assert shown.count("resolve_key") > 1
    assert [key for key in keys if key in shown or key[11:-6] in shown] == []


def test_the_connection_of_django_itself_is_refused_with_the_one_inside() -> None:
    from django.db import connection

    with pytest.raises(TypeError, match=r"from_psycopg\(connection\.connection\)"):
        Keylatch.from_psycopg(connection)
