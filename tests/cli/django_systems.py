"""Makes keys with Django's own libraries, and prints the tables of the keys as CSV in JSON.

This is a separate program, because Django can be configured only once in a process.
"""

import csv
import io
import json
import sys

import django
from django.conf import settings

NAMES = ("knox", "rest_framework", "rest_framework.authtoken", "rest_framework_api_key")


def main() -> None:
    """Print the key and the dump of each preset."""
    settings.configure(
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", *NAMES],
        USE_TZ=True,
    )
    django.setup()
    from django.contrib.auth.models import User
    from django.core.management import call_command
    from django.db import connection
    from knox.models import AuthToken  # type: ignore[import-untyped]
    from rest_framework.authtoken.models import Token  # type: ignore[import-untyped]
    from rest_framework_api_key.models import APIKey

    call_command("migrate", verbosity=0)
    user = User.objects.create(id=42, username="somebody")
    _, knox = AuthToken.objects.create(user)
    _, api_key = APIKey.objects.create_key(name="a partner")
    token = Token.objects.create(user=user).key

    def dump(table: str) -> str:
        text = io.StringIO()
        with connection.cursor() as cursor:
            cursor.execute(f"select * from {table}")
            writer = csv.writer(text)
            writer.writerow([column[0] for column in cursor.description])
            writer.writerows(cursor.fetchall())
        return text.getvalue()

    json.dump(
        {
            "django-rest-knox": (knox, dump("knox_authtoken")),
            "drf-authtoken": (token, dump("authtoken_token")),
            "djangorestframework-api-key": (api_key, dump("rest_framework_api_key_apikey")),
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
