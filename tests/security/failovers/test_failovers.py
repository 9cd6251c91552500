"""A primary and two standbys fail over in each way, and no answer breaks its promise."""

import pytest

from security.failovers.fleet import Failover
from security.failovers.soak import run
from stack import Janitor

pytestmark = [pytest.mark.one_server, pytest.mark.long]


@pytest.mark.usefixtures("local_server")
def test_no_answer_misses_an_acknowledged_revocation_beyond_its_bound(janitor: Janitor) -> None:
    outcome = run(janitor, is_over=lambda failovers: failovers == len(Failover))
    assert outcome.history.violations() == []
    # Commits that both standbys replayed are not lost. Commits that the promoted one lacked are.
    assert outcome.lost[Failover.synchronous] == []
    assert "revoke" in {change.kind for change in outcome.lost[Failover.asynchronous]}
    assert {found.reader for found in outcome.history.found} == set(outcome.readers)
