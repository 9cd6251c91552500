"""Makes a key with LiteLLM's own proxy. Writes the row to litellm.csv, and prints the key.

Prisma's client needs an engine that pip does not have. So a stand-in for its table keeps the row
that LiteLLM writes. The other columns, and their defaults, come from LiteLLM's schema.prisma.
"""

import asyncio
import csv
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import litellm
from litellm.proxy import proxy_server
from litellm.proxy.management_endpoints.key_management_endpoints import generate_key_helper_fn
from litellm.proxy.utils import PrismaClient

MODEL = re.compile(r"^model LiteLLM_VerificationToken \{$(.*?)^\}$", re.DOTALL | re.MULTILINE)
COLUMN = re.compile(r"^\s+(\w+)\s+(?:String|Float|Boolean|DateTime|Json|Int|BigInt)\b(.*)$")


class Table:
    """A stand-in for the table in Prisma's client."""

    row: dict[str, object]

    async def upsert(self, data: dict[str, dict[str, object]], **_: object) -> SimpleNamespace:
        """Keep the row."""
        self.row = data["create"]
        return SimpleNamespace(**self.row)


def columns() -> dict[str, object]:
    """The columns of the table, each with its default."""
    schema = Path(litellm.__file__).parent / "proxy" / "schema.prisma"
    model = MODEL.search(schema.read_text("utf-8"))
    assert model
    found: dict[str, object] = {}
    for name, rest in filter(None, map(columns_of, model[1].splitlines())):
        default = re.search(r"@default\((.*?)\)(?:\s|$)", rest)
        value = default[1].strip('"') if default else None
        found[name] = datetime.now(UTC) if value == "now()" else value
    return found


def columns_of(line: str) -> tuple[str, str] | None:
    """Return the column's name and the rest of a line of the schema, or None without a column."""
    column = COLUMN.match(line)
    return (column[1], column[2]) if column else None


def cell(value: object) -> object:
    """A value as psql writes it in CSV."""
    if isinstance(value, bool) or value in ("true", "false"):
        return "t" if value in (True, "true") else "f"
    if isinstance(value, list):
        return f"{{{','.join(value)}}}"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    return {"[]": "{}", "0.0": "0", 0.0: "0"}.get(value, value)


async def main() -> None:
    """Write the row, and print the key."""
    client, table = PrismaClient.__new__(PrismaClient), Table()
    client.db = SimpleNamespace(litellm_verificationtoken=table)
    proxy_server.prisma_client = client
    made = await generate_key_helper_fn(
        request_type="key",
        table_name="key",
        duration="36500d",
        key_alias="the shop",
        user_id="42",
        team_id=None,
    )
    row = {**columns(), **table.row}
    with Path("litellm.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(row)
        writer.writerow(map(cell, row.values()))
    sys.stdout.write(f"{made['token']}\n")


if __name__ == "__main__":
    asyncio.run(main())
