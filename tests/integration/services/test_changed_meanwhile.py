"""Rows that others change while a statement waits for them (docs/adr/0052)."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial

import pytest
from sqlalchemy import text

from celeriac.db.executions import leases
from celeriac.db.executions.leases import PendingWrites
from celeriac.domain.errors import DatabaseBusyError
from celeriac.domain.executions.events import EventType, NewEvent
from celeriac.domain.executions.model import Claim
from tests.support.core import Core
from tests.support.retention import make_ids_old
from tests.support.together import together

ROUNDS = 8
BATCHES = 8


@pytest.mark.parametrize("periods", [1, 2])
def test_notes_and_cancellations_of_the_same_executions_do_not_crash_the_server(
    core: Core, monkeypatch: pytest.MonkeyPatch, periods: int
) -> None:
    before = started_at(core)
    for _ in range(ROUNDS):
        claims = [core.running() for _ in range(3)]
        with monkeypatch.context() as earlier:
            if periods == 2:
                make_ids_old(earlier)
            claims += [core.running() for _ in range(3)]
        works = (note_all, note_all, note_each, cancel_each, cancel_all)
        together([partial(unless_busy, work, core, claims) for work in works])
    assert started_at(core) == before
    core.assert_consistent()


def started_at(core: Core) -> object:
    """Return when the server began to serve: it does so anew after a crash."""
    with core.database.autocommit() as connection:
        query = (
            "SELECT min(backend_start) FROM pg_stat_activity WHERE backend_type = 'checkpointer'"
        )
        return connection.execute(text(query)).scalar_one()


def unless_busy(work: Callable[[Core, list[Claim]], None], core: Core, claims: list[Claim]) -> None:
    """Let `work` give up when others have locked its rows in another order."""
    with suppress(DatabaseBusyError):
        work(core, claims)


def note_all(core: Core, claims: list[Claim]) -> None:
    for number in range(1, BATCHES + 1):
        notes = [
            PendingWrites(
                claim.lease, events=[NewEvent(EventType.CUSTOM, '{"name": "a"}')], number=number
            )
            for claim in claims
        ]
        with core.database.transaction() as connection:
            leases.store_batch(connection, notes)


def note_each(core: Core, claims: list[Claim]) -> None:
    for claim in claims:
        note = PendingWrites(claim.lease, progress=(1.0, None, "a"), number=1)
        with core.database.transaction() as connection:
            leases.store_batch(connection, [note])


def cancel_each(core: Core, claims: list[Claim]) -> None:
    for claim in reversed(claims):
        core.cancel.those(core.actor, [claim.lease.execution_id])


def cancel_all(core: Core, claims: list[Claim]) -> None:
    core.cancel.those(core.actor, [claim.lease.execution_id for claim in claims])
