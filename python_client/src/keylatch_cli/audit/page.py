"""The page of `keylatch audit --html`: one file that loads nothing from the network."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import groupby
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from keylatch import __version__

from .command import MARKS, verdict
from .report import ACTORS, OUTCOMES, by_heading, lines

if TYPE_CHECKING:
    import psycopg

    from .report import Audit

_POLICIES = """
select
  c.oid::regclass::text, p.polname, pg_catalog.obj_description(p.oid, 'pg_policy'),
  case p.polcmd
    when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete'
    else 'all'
  end,
  (select string_agg(coalesce(r.rolname, 'public'), ', ' order by r.rolname)
    from unnest(p.polroles) as o (oid) left join pg_catalog.pg_roles as r on o.oid = r.oid),
  coalesce(pg_catalog.pg_get_expr(p.polqual, p.polrelid), ''),
  coalesce(pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid), '')
from pg_catalog.pg_policy as p
inner join pg_catalog.pg_class as c on p.polrelid = c.oid
where c.relnamespace::regnamespace::text in ('keylatch', 'keylatch_internal')
order by 1, 2
"""
# Each key starts once and ends at most once, at the first event that ends it.
_CHANGES = """
with ended as (
  select
    k.created_at,
    least(k.revoked_at, k.superseded_at, k.expires_at) as ended_at,
    case least(k.revoked_at, k.superseded_at, k.expires_at)
      when k.revoked_at then 'revoked'
      when k.superseded_at then 'superseded'
      else 'expired'
    end as status
  from keylatch_internal.keys as k
)
select (created_at at time zone 'UTC')::date as day, 'active' as status, count(*)
from ended group by 1, 2
union all
select (ended_at at time zone 'UTC')::date, status, count(*)
from ended where ended_at <= now() group by 1, 2
order by 1
"""
STATUSES = ("active", "superseded", "expired", "revoked")
_HEADROOM = 4
# StrictUndefined: a misspelt name in the template is an error, not an empty cell.
_TEMPLATES = Environment(
    loader=PackageLoader(__package__, ""),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def page(connection: psycopg.Connection[Any], found: Audit) -> str:
    """Make the page of an audit.

    Args:
        connection: The audited database, for the policies, the keys and the findings of doctor.
        found: The result of the audit.

    Returns:
        A complete HTML page with its styles. The page has no scripts and loads nothing.
    """
    from ..doctor.examination import examine

    report = examine(connection)
    now = datetime.now(UTC)
    matrix = ((name, list(lines(tries))) for name, tries in by_heading(found.tries))
    return _TEMPLATES.get_template("page.html").render(
        database=report.site.database,
        server_version=report.site.server_version,
        version=__version__,
        now=now,
        actors=ACTORS,
        outcomes=OUTCOMES,
        marks=MARKS,
        verdict=verdict(found),
        audit=found,
        matrix=[(name, rows) for name, rows in matrix if rows],
        policies=connection.execute(_POLICIES).fetchall(),
        chart=_chart_of(connection.execute(_CHANGES).fetchall(), now.date()),
        findings=[
            (one.level, f"{one.subject}: {one.what}", one.why, one.fix) for one in report.findings
        ],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chart:
    """The number of keys of each status over time, as stacked areas."""

    first: date
    today: date
    top: int
    counts: dict[str, int]
    areas: dict[str, list[tuple[float, float]]]
    width: int = 720
    height: int = 240
    left: int = 56
    base: int = 216

    def point(self, share: float, count: int) -> tuple[float, float]:
        """Return the point for a number of keys, at a time given as a share of the axis."""
        x = self.left + (self.width - self.left) * share
        return x, self.base - (self.base - _HEADROOM) * count / self.top


def _chart_of(changes: list[tuple[date, str, int]], today: date) -> _Chart | None:
    """Build the chart up to today; `None` if no key was ever issued."""
    if not changes:
        return None
    first = min(day for day, _, _ in changes)
    days = max((today - first).days, 1)
    counts = dict.fromkeys(STATUSES, 0)
    # From 0, the first day, to 1, the right edge.
    steps: list[tuple[float, dict[str, int]]] = []
    for day, group in groupby(changes, key=lambda change: change[0]):
        share = (day - first).days / days
        # The numbers stay the same until that day.
        steps.append((share, dict(counts)))
        for _, status, number in group:
            counts[status] += number
            if status != "active":
                counts["active"] -= number
        steps.append((share, dict(counts)))
    steps.append((1, dict(counts)))
    top = max(sum(numbers.values()) for _, numbers in steps)
    chart = _Chart(first=first, today=today, top=top, counts=counts, areas={})
    floor = [0] * len(steps)
    for status in STATUSES:
        roof = [low + numbers[status] for low, (_, numbers) in zip(floor, steps, strict=True)]
        forth = [chart.point(share, high) for (share, _), high in zip(steps, roof, strict=True)]
        back = [chart.point(share, low) for (share, _), low in zip(steps, floor, strict=True)]
        chart.areas[status] = [*forth, *reversed(back)]
        floor = roof
    return chart
