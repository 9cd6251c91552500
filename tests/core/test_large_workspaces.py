"""A workspace with more keys than one statement can revoke: the error names retire_workspace."""

from uuid import uuid4

import psycopg
import pytest

from stack import Database, People

MOST = 100_000
MAKE = """
insert into keylatch_internal.keys
  (id, workspace_id, kind, masked_key, key_hash, created_at, updated_at)
select gen_random_uuid(), %s, 'secret', '...', sha256(gen_random_uuid()::text::bytea), now(), now()
from generate_series(1, %s)
"""
OPEN = "select count(*) from keylatch_internal.keys where workspace_id = %s and revoked_at is null"


@pytest.mark.one_server
def test_deleting_too_large_a_workspace_is_refused_and_names_what_ends_it(
    database: Database, people: People
) -> None:
    assert people
    owner, service = database.connect(), database.connect("service_role")
    workspace = uuid4()
    delete = "delete from keylatch.workspaces where id = %s"
    owner.execute("insert into keylatch.workspaces (id, name) values (%s, 'large')", [workspace])
    owner.execute(MAKE, [workspace, MOST + 1])
    with pytest.raises(psycopg.Error, match="keys_are_kept") as caught:
        service.execute(delete, [workspace])
    assert "retire_workspace" in str(caught.value.diag.message_hint)
    assert owner.execute(OPEN, [workspace]).fetchone() == (MOST + 1,)
    retired = service.execute("select * from keylatch.retire_workspace(%s, 1)", [workspace])
    assert retired.fetchone() == (1, False)
    assert owner.execute(OPEN, [workspace]).fetchone() == (MOST,)
