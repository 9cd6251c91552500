"""Tests one operation as one kind of user."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from .report import LATCH, NO, NONE, RULE, STAMP, YES
from .stage import Stage

# No privilege; a view, or a column of one, that cannot be written; a generated column.
_REFUSED = ("42501", "55000", "0A000", "428C9")
_LATCHED, _UNKNOWN = "PT409", ("PT401", "PT404")
# Another session's lock, or a timeout: the test has no result.
UNTRIED = ("55P03", "57014", "40P01")
_ASKED = ("execute", "truncate")
# Tests operations as each actor, in one round trip, because there are thousands of tests. The
# statements of an operation run up to the first that is refused. `UNDO0` ends each block, so that
# only the variables stay. A lock or a timeout ends the audit.
_TRY = """
select pg_catalog.set_config('keylatch_audit.given', {given}, true);
do $try$
declare
  v_given constant jsonb := current_setting('keylatch_audit.given');
  v_operation jsonb;
  v_actor jsonb;
  v_statement text;
  v_rows bigint;
  v_is_taken boolean;
  v_refused text;
  v_results jsonb;
  v_found jsonb := '[]';
begin
  for v_operation, v_actor in
    select o.value, a.value
    from jsonb_array_elements(v_given -> 'operations') with ordinality as o (value, place)
    cross join jsonb_array_elements(v_given -> 'actors') with ordinality as a (value, place)
    order by o.place, a.place
  loop
    v_results := '[]';
    v_refused := null;
    for v_statement in select jsonb_array_elements_text(v_operation -> 'statements') loop
      begin
        perform set_config('role', v_actor ->> 0, true),
          set_config('request.jwt.claims', v_actor ->> 1, true),
          set_config('request.headers', '', true);
        execute v_statement;
        get diagnostics v_rows = row_count;
        set constraints all immediate;
        v_is_taken := true;
        if v_rows > 0 and v_operation ? 'was_taken' then
          perform set_config('role', v_given ->> 'owner', true);
          execute v_operation ->> 'was_taken' into v_is_taken;
        end if;
        raise sqlstate 'UNDO0';
      exception
        when sqlstate 'UNDO0' then
          v_results := v_results || jsonb_build_array(jsonb_build_array(v_rows, v_is_taken));
        when lock_not_available or deadlock_detected then
          raise;
        when others then
          v_refused := sqlstate;
          exit;
      end;
    end loop;
    v_found := v_found || jsonb_build_array(jsonb_build_array(v_results, v_refused));
  end loop;
  perform set_config('keylatch_audit.found', v_found::text, true);
end $try$;
select pg_catalog.current_setting('keylatch_audit.found')
"""
_AT_ONCE = 20
"""How many operations are tested in a round trip, which takes 25 ms. The statement timeout covers
all of them, and is far longer, because a database may be busy or slow."""


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation to test: statements, each of which needs more access than the statement before.

    After an update, `was_taken` checks whether the rows have the new value.
    """

    object: str
    operation: str
    column: str
    statements: tuple[sql.Composed, ...]
    was_taken: sql.Composed | None = None

    def written(self, connection: psycopg.Connection[Any]) -> dict[str, Any]:
        """Return the statements as texts."""
        written: dict[str, Any] = {
            "statements": [one.as_string(connection) for one in self.statements]
        }
        if self.was_taken is not None:
            written["was_taken"] = self.was_taken.as_string(connection)
        return written


def outcomes(
    connection: psycopg.Connection[Any], stage: Stage, operations: Sequence[Operation]
) -> Iterator[tuple[Operation, dict[str, str]]]:
    """Test operations as each actor, with the deferred checks. Changes nothing.

    Yields:
        Each operation, with the outcome for each actor.
    """
    for start in range(0, len(operations), _AT_ONCE):
        part = operations[start : start + _AT_ONCE]
        given = {
            "actors": list(stage.acting.values()),
            "owner": stage.acting["owner"][0],
            "operations": [one.written(connection) for one in part],
        }
        cursor = connection.execute(sql.SQL(_TRY).format(given=json.dumps(given)), prepare=False)
        while cursor.nextset():
            pass
        found = iter(json.loads(cursor.fetchall()[0][0]))
        for one in part:
            yield one, {actor: _outcome(one.operation, *next(found)) for actor in stage.acting}


def _outcome(operation: str, results: list[tuple[int, bool | None]], refused: str | None) -> str:
    came = NO
    for rows, is_taken in results:
        if operation in _ASKED:
            if not rows:
                return came
            # The second statement checks whether a guard refuses what the first one grants.
            came = LATCH if came == YES else YES
        elif rows > 0:
            came = STAMP if is_taken is False else YES
        else:
            came = NONE
    return came if refused is None else _refusal(refused, operation, came)


def _refusal(sqlstate: str, operation: str, came: str) -> str:
    if sqlstate in _REFUSED:
        return came
    if operation == "call":
        # Only the value was refused. With another value, the role may make the call.
        return NONE if sqlstate in _UNKNOWN else YES
    return LATCH if sqlstate == _LATCHED else RULE
