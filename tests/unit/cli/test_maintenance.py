"""What `celeriac maintenance` tells of the next run of a job."""

from datetime import UTC, datetime, timedelta

import pytest

from celeriac import wire
from celeriac.cli.maintenance import cells

ENDED = datetime(2026, 11, 28, 15, tzinfo=UTC)


@pytest.mark.requirement("A19")
@pytest.mark.parametrize(
    ("seconds", "late", "told"), [(0.5, False, False), (3600, False, True), (0.5, True, True)]
)
def test_the_next_run_is_not_told_if_it_has_been(seconds: float, late: bool, told: bool) -> None:
    following = ENDED + timedelta(seconds=seconds)
    job = wire.MaintenanceJob(
        name="fold_ends", host="shop-1", interval_seconds=seconds, started_at=ENDED,
        ended_at=ENDED, next_at=following, done=0, failures=0, error=None, succeeded_at=ENDED,
        late=late,
    )  # fmt: skip
    row = cells(job)
    assert row[3] == f"{seconds:g} s"
    assert row[4] == (following if told else None)
