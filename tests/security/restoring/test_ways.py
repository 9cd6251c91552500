"""Whatever way a database was restored: what works by itself, and what after_restore.sql mends."""

import pytest

from security.restoring.ground import Ground, mend, with_role
from security.restoring.story import Model, faults, rows, use_every_call
from security.restoring.ways import WAYS, Way

pytestmark = pytest.mark.one_server


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.restore.__name__)
def test_a_restored_database_is_whole_or_after_restore_makes_it_so(
    ground: Ground, model: Model, way: Way
) -> None:
    with_role(ground.target, exists=way.has_role)
    with way.restore(ground) as restored:
        assert tuple(faults(restored, model, ground.story)) == way.lost
        mend(restored, way.owner)
        assert faults(restored, model, ground.story) == []
        assert (
            rows(restored)["keylatch_internal.keys"] == ground.story.rows["keylatch_internal.keys"]
        )
        assert (
            rows(restored)["keylatch_internal.key_events"]
            == ground.story.rows["keylatch_internal.key_events"]
        )
        use_every_call(restored, ground.story)
