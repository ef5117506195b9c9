"""Ageing: what has waited long gets a higher priority."""

from collections.abc import Sequence
from uuid import UUID

import pytest
from sqlalchemy import Connection, text

from celeriac.db.executions.ageing import Aged, Owner, aged
from celeriac.db.executions.create import place_of
from celeriac.domain.executions.ageing import raised_after
from celeriac.domain.executions.why import ReasonCode
from celeriac.domain.tasks import DEFAULT_QUEUE, Priority, TaskSpec
from celeriac.services.executions import ageing
from celeriac.services.executions.ageing import RaiseAged
from celeriac.services.executions.why import ExplainWaiting
from tests.support.core import Core
from tests.support.rows_read import rows_read

pytestmark = pytest.mark.requirement("C4", "F14")

SECONDS = 600.0
AGES = (590, 610, 1_190, 1_210)
"""Seconds for which one is due, around the two limits."""


@pytest.fixture
def raise_aged(core: Core) -> RaiseAged:
    return RaiseAged(core.database, core.live, seconds=SECONDS)


def wait(
    core: Core, seconds: float, priority: Priority = Priority.LOW, *, user: UUID | None = None
) -> UUID:
    """Let an execution wait that has been due for so long."""
    execution_id = core.pending()
    core.execute(
        "UPDATE executions SET available_at = now() - make_interval(secs => :seconds),"
        " priority = :priority, owner_id = coalesce(:user, owner_id) WHERE id = :id",
        seconds=seconds, priority=int(priority), user=user, id=execution_id,
    )  # fmt: skip
    return execution_id


def priorities(core: Core, ids: Sequence[UUID]) -> list[Priority]:
    return [Priority(core.get(each).priority) for each in ids]


def test_low_becomes_normal_and_normal_high_after_twice_the_time(
    core: Core, raise_aged: RaiseAged
) -> None:
    ids = {each: [wait(core, age, each) for age in AGES] for each in Priority}
    assert raise_aged() == 4
    low, normal, high, critical = Priority
    assert priorities(core, ids[low]) == [low, normal, normal, normal]
    assert priorities(core, ids[normal]) == [normal, normal, normal, high]
    assert set(priorities(core, ids[high])) == {high}
    assert set(priorities(core, ids[critical])) == {critical}
    assert raise_aged() == 1, "the oldest low one, which has become normal"
    assert priorities(core, ids[low]) == [low, normal, normal, high]
    assert raise_aged() == 0
    core.assert_consistent()


def test_a_raised_one_has_an_event_and_runs_before_younger_ones(
    core: Core, raise_aged: RaiseAged
) -> None:
    core.live.changes.clear()
    old = wait(core, 700)
    young = wait(core, 1, Priority.NORMAL)
    raise_aged()
    last = core.events(old)[-1]
    assert (last.type, last.data) == (
        "raised",
        {"from": "low", "to": "normal", "seconds": SECONDS},
    )
    assert old in core.live.changes
    assert core.event_types(young) == ["created"]
    core.dispatch.send_due()
    envelope = core.queue.take(DEFAULT_QUEUE)
    assert envelope is not None
    assert envelope.message.execution_id == old


def test_what_does_not_wait_for_a_worker_keeps_its_priority(
    core: Core, raise_aged: RaiseAged
) -> None:
    held = ("time", "limit", "paused")
    ids = [wait(core, 10_000) for _ in held]
    for execution_id, why in zip(ids, held, strict=True):
        core.execute("UPDATE executions SET held = :why WHERE id = :id", why=why, id=execution_id)
    ids.append(core.running().lease.execution_id)
    core.execute("UPDATE executions SET priority = 0, available_at = now() - interval '1 day'")
    assert raise_aged() == 0
    assert set(priorities(core, ids)) == {Priority.LOW}


def test_all_owners_and_all_of_theirs_are_raised_step_by_step(
    core: Core, raise_aged: RaiseAged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ageing, "_OWNERS", 2)
    monkeypatch.setattr(ageing, "_EACH", 2)
    ids = [wait(core, 700, user=UUID(int=user)) for user in range(1, 6) for _ in range(3)]
    raised: list[int] = []
    while (count := raise_aged()) or not raised:
        raised.append(count)
    assert raised == [4, 4, 2, 2, 2, 1], "two of each owner, and then the third of each"
    assert set(priorities(core, ids)) == {Priority.NORMAL}


def test_a_step_reads_one_entry_for_each_owner_however_many_wait(core: Core) -> None:
    core.pending_many([{}] * 2_000)
    core.execute("UPDATE executions SET priority = 0, available_at = now() - interval '1 hour'")
    found: list[Aged] = []

    def step(connection: Connection) -> None:
        found.append(
            aged(
                connection,
                DEFAULT_QUEUE,
                Priority.LOW,
                seconds=SECONDS,
                after=Owner(),
                owners=10,
                each=5,
            )
        )

    for plan, read in rows_read(core.database, step):
        assert read < 20, plan
    assert len(found[0].ids) == 5
    assert found[0].last is None, "there is one owner"


def test_why_says_when_its_priority_will_be_raised(core: Core) -> None:
    worker = core.worker()
    core.execute(
        "UPDATE workers SET queues = ARRAY[:queue], consuming = true WHERE id = :id",
        queue=DEFAULT_QUEUE, id=worker.id,
    )  # fmt: skip
    wait(core, 300, Priority.HIGH)
    low = wait(core, 300)
    explain = ExplainWaiting(core.database, ageing_seconds=SECONDS)
    (reason,) = [each for each in explain(core.actor, low).reasons if each.code is ReasonCode.QUEUE]
    due = core.get(low).available_at
    assert reason.until is not None
    assert (reason.until - due).total_seconds() == raised_after(Priority.LOW, SECONDS) == SECONDS
    assert reason.text.endswith("Its priority becomes normal by waiting.")
    (without,) = [
        each
        for each in ExplainWaiting(core.database)(core.actor, low).reasons
        if each.code is ReasonCode.QUEUE
    ]
    assert without.until is None


def test_it_stands_at_its_new_priority_in_the_lines_of_its_limits(core: Core) -> None:
    spec = TaskSpec.model_validate({"concurrency": [{"key": "'all'", "max": 5}]})
    core = Core(core.database, spec)
    low, normal = core.pending_many([{}, {}])
    core.execute("UPDATE executions SET available_at = now() - interval '15 minutes'")
    core.execute("UPDATE executions SET priority = 0 WHERE id = :id", id=low)
    core.execute(
        "UPDATE execution_limits SET place = :place WHERE execution_id = :id",
        place=place_of(Priority.LOW), id=low,
    )  # fmt: skip
    RaiseAged(core.database, core.live, seconds=SECONDS)()
    assert priorities(core, [low, normal]) == [Priority.NORMAL, Priority.NORMAL]
    assert place_in_line(core, low) == place_in_line(core, normal) == place_of(Priority.NORMAL)


def place_in_line(core: Core, execution_id: UUID) -> int:
    with core.database.autocommit() as connection:
        found = connection.execute(
            text("SELECT place FROM execution_limits WHERE execution_id = :id"),
            {"id": execution_id},
        )
        return int(found.scalar_one())
