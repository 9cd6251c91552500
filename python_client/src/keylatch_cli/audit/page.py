"""The page of `keylatch audit --html`: one file, which asks no network for anything."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime
from html import escape
from importlib.resources import files
from itertools import groupby
from typing import TYPE_CHECKING, Any

from keylatch import __version__

from .command import MARKS, heading, lines
from .matrix import ACTORS, OUTCOMES

if TYPE_CHECKING:
    import psycopg

    from .matrix import Audit

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
# Each key begins once and ends at most once: by whatever came first.
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
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 720, 240, 56, 24


def page(connection: psycopg.Connection[Any], found: Audit) -> str:
    """Make the page of an audit.

    Args:
        connection: The database that was audited, for the policies, the keys and doctor.
        found: What the audit found.

    Returns:
        HTML, whole: styles within, no script, and nothing that is loaded.
    """
    from ..doctor.examination import examine

    report = examine(connection)
    wrong = sum(len(one.differs) for one in found.differences) + len(found.missing)
    verdict = "All as expected" if found.is_clean else f"{wrong:,} not as expected"
    parts = {
        "title": f"Who can do what in {escape(report.site.database)}",
        "when": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, keylatch {escape(__version__)}, "
        f"PostgreSQL {escape(report.site.server_version)}",
        "verdict": f"{verdict} of {len(found.tries) * len(ACTORS):,} tries.",
        "state": "good" if found.is_clean else "bad",
        "differences": _differences(found),
        "legend": _legend(),
        "matrix": _matrix(found),
        "policies": _table(
            ("table", "policy", "says", "for", "to", "rows that", "and after it"),
            connection.execute(_POLICIES).fetchall(),
        ),
        "keys": _keys(connection.execute(_CHANGES).fetchall(), datetime.now(UTC).date()),
        "findings": _table(
            ("level", "what", "why", "to mend it"),
            [
                (str(one.level), f"{one.subject}: {one.what}", one.why, one.mend)
                for one in report.findings
            ],
        )
        if report.findings
        else "<p>Doctor has nothing to mend.</p>",
    }
    text = (files(__package__) / "page.html").read_text(encoding="utf-8")
    for name, part in parts.items():
        text = text.replace(f"<!--{name}-->", part)
    return text


def _legend() -> str:
    items = (
        f"<li><b class='{outcome}'>{MARKS[outcome]}</b> {escape(meaning)}</li>"
        for outcome, meaning in OUTCOMES.items()
    )
    return f"<ul class='legend'>{''.join(items)}</ul>"


def _differences(found: Audit) -> str:
    rows = [
        (actor, one.name, one.found[actor], one.expected.get(actor, "not known"))
        for one in found.differences
        for actor in one.differs
    ] + [("", name, "not there", "there") for name in found.missing]
    if not rows:
        return ""
    table = _table(("who", "does", "came to", "expected"), rows)
    return (
        f"<div class='scroll' tabindex='0' role='region' aria-label='Not as expected'>{table}</div>"
    )


def _matrix(found: Audit) -> str:
    heads = "".join(f"<th scope='col'>{escape(actor)}</th>" for actor in ACTORS)
    bodies = []
    for name, tries in groupby(found.tries, key=heading):
        rows = []
        for operation, columns, outcomes in lines(tries):
            what = f"<b>{escape(operation)}</b> {escape(', '.join(columns))}"
            cells = "".join(
                f"<td class='{outcome}' title='{escape(OUTCOMES[outcome])}'>{MARKS[outcome]}"
                f"<span class='unseen'>{outcome}</span></td>"
                for outcome in outcomes
            )
            rows.append(f"<tr><th scope='row'>{what}</th>{cells}</tr>")
        if rows:
            top = f"<tr><th scope='rowgroup' colspan='{len(ACTORS) + 1}'>{escape(name)}</th></tr>"
            bodies.append(f"<tbody>{top}{''.join(rows)}</tbody>")
    caption = (
        "<caption>What came of each try; what is refused to all of them is left out.</caption>"
    )
    head = f"<thead><tr><td></td>{heads}</tr></thead>"
    return f"<table class='matrix'>{caption}{head}{''.join(bodies)}</table>"


def _table(heads: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    top = "".join(f"<th scope='col'>{escape(head)}</th>" for head in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(str(cell or ''))}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _keys(changes: list[tuple[date, str, int]], today: date) -> str:
    """Draw how many keys there were of each status, and give today's numbers in a table."""
    if not changes:
        return "<p>There are no keys.</p>"
    first = min(day for day, _, _ in changes)
    days = max((today - first).days, 1)
    counts = dict.fromkeys(STATUSES, 0)
    points: list[tuple[float, dict[str, int]]] = []
    for day, group in groupby(changes, key=lambda change: change[0]):
        x = _LEFT + (_WIDTH - _LEFT) * (day - first).days / days
        # It stays as it was until the day itself.
        points.append((x, dict(counts)))
        for _, status, number in group:
            counts[status] += number
            if status != "active":
                counts["active"] -= number
        points.append((x, dict(counts)))
    points.append((_WIDTH, dict(counts)))
    top = max(sum(numbers.values()) for _, numbers in points)
    floor = [0] * len(points)
    areas = []
    for status in STATUSES:
        roof = [low + numbers[status] for low, (_, numbers) in zip(floor, points, strict=True)]
        forth = [f"{x:.1f},{_y(high, top):.1f}" for (x, _), high in zip(points, roof, strict=True)]
        back = [f"{x:.1f},{_y(low, top):.1f}" for (x, _), low in zip(points, floor, strict=True)]
        corners = " ".join([*forth, *reversed(back)])
        areas.append(f"<polygon class='{status}' points='{corners}'/>")
        floor = roof
    base = _HEIGHT - _BOTTOM
    axes = (
        f"<text x='{_LEFT - 6}' y='14' text-anchor='end'>{top:,}</text>"
        f"<text x='{_LEFT - 6}' y='{base}' text-anchor='end'>0</text>"
        f"<text x='{_LEFT}' y='{_HEIGHT - 6}'>{first}</text>"
        f"<text x='{_WIDTH}' y='{_HEIGHT - 6}' text-anchor='end'>{today}</text>"
    )
    now = "".join(
        f"<tr><th scope='row'><i class='{status}'></i>{status}</th><td>{counts[status]:,}</td></tr>"
        for status in STATUSES
    )
    return (
        f"<svg viewBox='0 0 {_WIDTH} {_HEIGHT}' role='img' aria-label='Keys by status, from {first}"
        f" to {today}; the table has the numbers of today'>{''.join(areas)}{axes}</svg>"
        f"<table class='now'><caption>Today</caption><tbody>{now}</tbody></table>"
    )


def _y(count: int, top: int) -> float:
    return (_HEIGHT - _BOTTOM) * (1 - count / top) + 4 * (count / top)
