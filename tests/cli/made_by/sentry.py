"""Makes a token with Sentry's own model. Writes its row to sentry.csv, and prints the token.

The model makes the values, and Django makes the insert statement. Nothing runs the statement,
because a database of Sentry needs several other services.
"""

import csv
import sys
from datetime import datetime
from pathlib import Path

from django.db import connections, router
from django.db.models.sql import InsertQuery
from sentry.runner import configure


def cell(value: object) -> object:
    """A value as psql writes it in CSV."""
    if isinstance(value, list):
        return f"{{{','.join(value)}}}"
    return value.isoformat(" ").replace("+00:00", "+00") if isinstance(value, datetime) else value


def main() -> None:
    """Write the row, and print the token."""
    configure(skip_service_validation=True)
    from sentry.models import ApiToken

    # This follows sentry/api/endpoints/api_tokens.py.
    token = ApiToken(
        user_id=42, scope_list=["org:read", "project:write"], refresh_token=None, expires_at=None
    )
    columns = ApiToken._meta.concrete_fields
    insert = InsertQuery(ApiToken)
    insert.insert_values([column for column in columns if not column.primary_key], [token])
    connection = connections[router.db_for_write(ApiToken)]
    ((_, values),) = insert.get_compiler(connection=connection).as_sql()
    with Path("sentry.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([column.column for column in columns])
        writer.writerow(["1", *map(cell, values)])
    sys.stdout.write(f"{token.token}\n")


if __name__ == "__main__":
    main()
