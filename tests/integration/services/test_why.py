"""Why executions wait, by their rows."""

from collections.abc import Sequence
from uuid import UUID

import pytest

from celeriac.db.executions.why import facts
from celeriac.domain.errors import NotFoundError
from celeriac.domain.executions.model import SubmitRequest
from celeriac.domain.executions.why import ReasonCode, SubjectKind, Why
from celeriac.domain.tasks import DEFAULT_QUEUE
from celeriac.services.executions.why import ExplainWaiting
from tests.integration.services.test_plans import grow_old
from tests.support.catalog import make_actor
from tests.support.core import Core
from tests.support.families import parent_of
from tests.support.rows_read import rows_read
from tests.support.workflows import Flows


def asked(core: Core, execution_id: UUID) -> Why:
    return ExplainWaiting(core.database)(core.actor, execution_id)


def codes(core: Core, execution_id: UUID) -> Sequence[ReasonCode]:
    return [reason.code for reason in asked(core, execution_id).reasons]


def listen(core: Core, slots: int) -> None:
    """Let a worker process with slots take executions of the default queue."""
    worker = core.worker()
    core.execute(
        "UPDATE workers SET slots = :slots, queues = ARRAY[:queue], consuming = true"
        " WHERE id = :id",
        slots=slots, queue=DEFAULT_QUEUE, id=worker.id,
    )  # fmt: skip


def test_without_a_worker_it_waits_for_one(core: Core) -> None:
    (execution_id,) = core.pending_many([{}])
    found = asked(core, execution_id)
    assert [reason.code for reason in found.reasons] == [ReasonCode.WORKER]
    assert f"No worker listens to the queue '{DEFAULT_QUEUE}'" in found.text
    listen(core, 2)
    assert codes(core, execution_id) == []
    core.execute("UPDATE workers SET consuming = false")
    assert "take nothing from it now" in asked(core, execution_id).text


def test_those_that_come_first_are_counted_by_priority_and_age(core: Core) -> None:
    listen(core, 2)
    first, second, third = core.pending_many([{}, {}, {}])
    core.execute("UPDATE executions SET available_at = available_at - interval '1 hour'"
                 " WHERE id = :id", id=first)  # fmt: skip
    core.execute("UPDATE executions SET priority = priority + 1 WHERE id = :id", id=third)
    (reason,) = asked(core, second).reasons
    assert (reason.code, reason.count) == (ReasonCode.QUEUE, 2)
    assert codes(core, third) == []


def test_a_sent_one_waits_for_a_slot_and_a_running_one_for_its_end(core: Core) -> None:
    listen(core, 2)
    execution_id = core.queued()
    assert codes(core, execution_id) == [ReasonCode.SLOT]
    claim = core.running()
    (reason,) = asked(core, claim.lease.execution_id).reasons
    assert reason.code is ReasonCode.END
    assert reason.subject is not None
    assert reason.subject.kind is SubjectKind.WORKER
    core.cancel.those(core.actor, [claim.lease.execution_id])
    assert codes(core, claim.lease.execution_id) == [ReasonCode.CANCELLATION]


def test_a_delayed_one_waits_for_its_time(core: Core) -> None:
    listen(core, 2)
    request = SubmitRequest(task_id=core.task, delay_seconds=3600)
    execution_id = core.submit(core.actor, request).execution_id
    (reason,) = asked(core, execution_id).reasons
    assert (reason.code, reason.until) == (ReasonCode.TIME, core.get(execution_id).available_at)


def test_a_parked_one_names_its_question(core: Core) -> None:
    listen(core, 2)
    execution_id = core.waiting()
    (reason,) = asked(core, execution_id).reasons
    assert reason.code is ReasonCode.ANSWER
    assert reason.subject is not None
    core.cancel.those(core.actor, [execution_id])
    assert asked(core, execution_id).text == "It is cancelled: it waits for nothing."


def test_others_learn_nothing(core: Core) -> None:
    execution_id = core.queued()
    with pytest.raises(NotFoundError):
        ExplainWaiting(core.database)(make_actor(core.database), execution_id)


def test_the_cost_does_not_grow_with_what_waits(core: Core) -> None:
    listen(core, 2)
    core.pending_many([{}] * 3_000)
    execution_id = core.pending()
    grow_old(core.database, 2)
    seen = rows_read(
        core.database, lambda _: ExplainWaiting(core.database)(core.actor, execution_id)
    )
    assert seen
    assert max(rows for _, rows in seen) < 2 * 1_000 + 100
    (reason,) = asked(core, execution_id).reasons
    assert reason.count == 1_000


def test_the_cost_does_not_grow_with_what_a_limit_holds(core: Core) -> None:
    _, children = parent_of(core, 1_500, parallel=2)
    core.execute("ANALYZE executions")
    last = core.get(children[-1])

    [reason, *_] = asked(core, last.id).reasons

    assert (reason.code, reason.count) == (ReasonCode.PARENT_LIMIT, 2)
    for plan, read in rows_read(core.database, lambda c: facts(c, last, within_seconds=30.0)):
        assert read < 100, plan


def test_the_cost_does_not_grow_with_what_the_limit_of_a_step_holds(
    core: Core, flows: Flows
) -> None:
    steps = {"each": {"task": "work", "map": "input.list", "parallel": 2}}
    workflow = flows.define("w", steps, input={"list": "array"})
    run = flows.ran(flows.start(workflow, list=list(range(300))))
    core.execute("ANALYZE executions")
    last = core.get(run.items("each")[-1].execution_id)

    [reason, *_] = asked(core, last.id).reasons

    assert (reason.code, reason.count) == (ReasonCode.STEP_LIMIT, 2)
    for plan, read in rows_read(core.database, lambda c: facts(c, last, within_seconds=30.0)):
        assert read < 100, plan
