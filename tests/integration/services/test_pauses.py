"""Pauses: nothing that is paused begins, nothing is lost, and all continues in its order."""

from uuid import UUID, uuid4

import pytest

from celeriac.db.executions import children, lifecycle
from celeriac.db.executions import pauses as rows
from celeriac.db.executions.lifecycle import MoreClaims
from celeriac.domain.errors import NotFoundError
from celeriac.domain.executions.model import (
    Completed,
    Failure,
    HandedBack,
    Retry,
    SubmitRequest,
)
from celeriac.domain.executions.pauses import Pause, PauseScope, PauseTarget
from celeriac.domain.executions.states import Held, Status
from celeriac.domain.tasks import DEFAULT_QUEUE, Priority, TaskSpec
from celeriac.domain.workflows.states import RunStatus
from celeriac.services.executions import pauses as service
from celeriac.services.executions.change import Change
from celeriac.services.executions.why import ExplainWaiting
from tests.support.catalog import make_actor, make_task
from tests.support.core import Core, report_worker
from tests.support.families import FOR_CHILDREN, claim_of, parent_of
from tests.support.pauses import (
    OF_ALL_WORK,
    pause,
    pauses_of,
    resume,
    stored_holds,
)
from tests.support.together import together
from tests.support.workflows import Flows

pytestmark = pytest.mark.requirement("F15")

ALL = pytest.mark.parametrize("scope", OF_ALL_WORK)
OF_ROWS = pytest.mark.parametrize("scope", [PauseScope.TASK, PauseScope.WORKSPACE])
FAILURE = Failure("rate_limited", "Too many requests.")


def sent(core: Core) -> list[UUID]:
    """Send what may run; return all that is at the broker, in the order of the messages."""
    core.dispatch.send_due()
    return taken(core)


def taken(core: Core) -> list[UUID]:
    """Return what is at the broker, in the order of the messages."""
    found = []
    while (envelope := core.queue.take(DEFAULT_QUEUE)) is not None:
        found.append(envelope.message.execution_id)
    return found


def aged(core: Core, ids: list[UUID]) -> list[UUID]:
    """Make executions due one after the other, the first one first."""
    for number, each in enumerate(ids):
        core.execute(
            "UPDATE executions SET available_at = now() - make_interval(secs => :age)"
            " WHERE id = :id",
            age=len(ids) - number,
            id=each,
        )
    return ids


@ALL
def test_nothing_that_is_paused_is_sent_and_resumed_it_goes_on_in_order(
    core: Core, scope: PauseScope
) -> None:
    report_worker(core, 10, DEFAULT_QUEUE)
    before = list(core.pending_many([{}] * 3))
    paused = pause(core, scope)
    later = core.submit(core.actor, SubmitRequest(task_id=core.task))
    assert later.status is Status.PENDING, "it is accepted, and waits"
    ids = aged(core, [*before, later.execution_id])
    Change(core.database, core.dispatch).prioritise(core.actor, ids[2], Priority.CRITICAL)

    assert sent(core) == []
    assert pauses_of(core).hold() == 0 or scope in {PauseScope.TASK, PauseScope.WORKSPACE}
    assert sent(core) == []
    for each in ids:
        found = core.get(each)
        assert (found.status, found.held) == (Status.PENDING, Held.PAUSED)
    core.assert_consistent()

    resume(core, paused)
    assert taken(core) == [ids[2], ids[0], ids[1], ids[3]]
    assert {core.get(each).held for each in ids} == {None}
    core.assert_consistent()


@ALL
def test_a_message_at_the_broker_claims_nothing_and_its_row_goes_back(
    core: Core, scope: PauseScope
) -> None:
    execution_id = core.queued()
    message = core.message(execution_id)
    due_since = core.get(execution_id).available_at
    paused = pause(core, scope)

    assert core.claim(message) is None
    assert core.claim(message) is None, "a duplicate does no more"

    found = core.get(execution_id)
    assert (found.status, found.held, found.attempt) == (Status.PENDING, Held.PAUSED, 0)
    assert found.available_at == due_since, "it keeps its place"
    assert core.event_types(execution_id) == ["created", "queued", "unqueued"]
    assert core.events(execution_id)[-1].data == {"reason": "paused"}
    core.assert_consistent()

    core.lose_messages()
    resume(core, paused)
    again = core.queue.take(DEFAULT_QUEUE)
    assert again is not None
    assert core.claim(message) is None, "the message before the pause decides nothing"
    claim = core.claim(again.message)
    assert claim is not None
    assert claim.lease.attempt == 1
    core.end(claim, Completed(1))
    core.assert_consistent()


@ALL
def test_a_stale_message_gives_nothing_back(core: Core, scope: PauseScope) -> None:
    execution_id = core.queued()
    stale = core.message(execution_id)
    core.unqueue(execution_id)
    core.dispatch.send_due()
    pause(core, scope)

    assert core.claim(stale) is None

    assert core.status(execution_id) is Status.QUEUED, "its own message is at the broker"
    assert core.claim(core.message(execution_id)) is None
    assert core.status(execution_id) is Status.PENDING


@ALL
def test_a_slot_that_ends_an_attempt_claims_nothing_that_is_paused(
    core: Core, scope: PauseScope
) -> None:
    first, second = core.running(), core.running()
    core.pending_many([{}] * 2)
    paused = pause(core, scope)

    finished = core.finish(first, Completed(1), (), core.next_claim())
    assert (finished.status, finished.claim) == (Status.COMPLETED, None)

    resume(core, paused)
    core.lose_messages()
    core.execute("UPDATE executions SET status = 'pending', queued_at = NULL"
                 " WHERE status = 'queued'")  # fmt: skip
    assert core.finish(second, Completed(1), (), core.next_claim()).claim is not None


@ALL
def test_groups_claim_nothing_that_is_paused(core: Core, scope: PauseScope) -> None:
    claim = core.running()
    execution_id = core.queued()
    core.pending_many([{}] * 3)
    more = MoreClaims(core.worker(), [uuid4(), uuid4()], [claim.agent_version_id])
    pause(core, scope)
    with core.database.autocommit() as connection:
        assert lifecycle.claim_more(connection, DEFAULT_QUEUE, more) == []
        message = core.message(execution_id)
        assert lifecycle.claim_group(connection, message, uuid4(), more) == (None, [])
        ends = [lifecycle.end_values(claim.lease, Completed(1))]
        done = lifecycle.finish_group(connection, ends, DEFAULT_QUEUE, more)
    assert dict(done.status) == {claim.lease.execution_id: Status.COMPLETED}, "what runs continues"
    assert done.claims == []
    assert core.status(execution_id) is Status.PENDING
    core.assert_consistent()


@OF_ROWS
def test_others_of_the_queue_go_on(core: Core, scope: PauseScope) -> None:
    stranger = make_actor(core.database)
    other = make_task(core.database, stranger)
    report_worker(core, 10, DEFAULT_QUEUE)
    ids = core.pending_many([{}] * 3)
    pause(core, scope)
    free = core.submit(stranger, SubmitRequest(task_id=other))
    assert free.status is Status.QUEUED, "nothing that may run is before it"
    assert sent(core) == [free.execution_id]
    assert {stored_holds(core)[each] for each in ids} == {Held.PAUSED}


def test_another_task_of_the_workspace_goes_on(core: Core) -> None:
    other = make_task(core.database, core.actor)
    core.pending_many([{}] * 3)
    pause(core, PauseScope.TASK)
    free = core.submit(core.actor, SubmitRequest(task_id=other))
    assert sent(core) == [free.execution_id]


def test_another_queue_goes_on(core: Core) -> None:
    pause(core, PauseScope.QUEUE)
    free = core.submit(core.actor, SubmitRequest(task_id=core.task, queue="gpu"))
    assert free.status is Status.QUEUED
    assert core.claim(core.message(free.execution_id)) is not None


@OF_ROWS
def test_many_rows_are_set_aside_and_released_in_bounded_turns(
    core: Core, scope: PauseScope, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_AT_ONCE", 2)
    monkeypatch.setattr(service, "_TURNS", 1)
    report_worker(core, 10, DEFAULT_QUEUE)
    stranger = make_actor(core.database)
    free = core.submit.batch(
        stranger, SubmitRequest(task_id=make_task(core.database, stranger)), [{}] * 2
    ).execution_ids
    ids = aged(core, [*core.pending_many([{}] * 5), *free])[:5]
    paused = pause(core, scope)
    held = [each for each in ids if stored_holds(core)[each]]
    assert held == ids[:2], "those at the head"
    assert sent(core) == list(free), "what may run is found behind the others"
    assert [pauses_of(core).hold() for _ in range(3)] == [2, 1, 0]

    resume(core, paused)
    assert sent(core) == ids[:2]
    assert [pauses_of(core).hold() for _ in range(3)] == [2, 1, 0]
    assert sent(core) == ids[2:]
    core.assert_consistent()


def test_what_two_pauses_are_about_waits_for_both(core: Core) -> None:
    (execution_id,) = core.pending_many([{}])
    task, workspace = pause(core, PauseScope.TASK), pause(core, PauseScope.WORKSPACE)
    resume(core, task)
    assert pauses_of(core).hold() == 0
    assert sent(core) == []
    resume(core, workspace)
    assert core.status(execution_id) is Status.QUEUED


@ALL
def test_what_becomes_due_during_a_pause_waits(core: Core, scope: PauseScope) -> None:
    """A retry after its delay, and what was submitted for later, keep these reasons until then."""
    claim = core.running()
    paused = pause(core, scope)
    request = SubmitRequest(task_id=core.task, delay_seconds=60)
    later = core.submit(core.actor, request).execution_id
    core.end(claim, Retry(FAILURE, 30.0))
    retry = claim.lease.execution_id
    assert [core.get(each).held for each in (later, retry)] == [Held.TIME] * 2
    core.pass_time(61)
    core.lose_messages()
    assert sent(core) == []
    pauses_of(core).hold()
    assert [core.get(each).held for each in (later, retry)] == [Held.PAUSED] * 2
    resume(core, paused)
    assert {core.status(each) for each in (later, retry)} == {Status.QUEUED}
    core.assert_consistent()


@OF_ROWS
def test_a_row_that_is_not_due_any_more_is_held_for_its_time(core: Core, scope: PauseScope) -> None:
    (execution_id,) = core.pending_many([{}])
    paused = pause(core, scope)
    core.pass_time(-60)  # the clock was set back
    resume(core, paused)
    assert stored_holds(core) == {execution_id: Held.TIME}


@ALL
def test_what_waits_for_an_answer_or_children_goes_on_after_the_pause(
    core: Core, scope: PauseScope
) -> None:
    asking = core.waiting()
    parent_claim, (child,) = parent_of(core)
    core.end(parent_claim, FOR_CHILDREN)
    parent = parent_claim.lease.execution_id
    core.dispatch.send_due()
    claim = claim_of(core, child)
    paused = pause(core, scope)
    core.answer(asking)
    core.end(claim, Completed(1))
    pauses_of(core).hold()
    assert [core.get(each).held for each in (asking, parent)] == [Held.PAUSED] * 2
    core.lose_messages()
    assert sent(core) == []
    resume(core, paused)
    assert {core.status(each) for each in (asking, parent)} == {Status.QUEUED}
    core.assert_consistent()


@ALL
def test_paused_work_is_cancelled_and_its_priority_changed(core: Core, scope: PauseScope) -> None:
    first, second = core.pending_many([{}] * 2)
    pause(core, scope)
    assert core.cancel(core.actor, [first]) == {first: Status.CANCELLED}
    assert (
        Change(core.database, core.dispatch).prioritise(core.actor, second, Priority.HIGH).held
        is Held.PAUSED
    )
    assert stored_holds(core)[first] is None
    core.assert_consistent()


@ALL
def test_a_hand_back_and_a_lost_worker_are_paused(core: Core, scope: PauseScope) -> None:
    handed, lost = core.running("w"), core.running("v")
    paused = pause(core, scope)
    core.end(handed, HandedBack())
    core.pass_time(40)
    assert core.rescue() == 1
    core.pass_time(10)
    core.lose_messages()
    assert sent(core) == []
    resume(core, paused)
    sent(core)
    ids = [each.lease.execution_id for each in (handed, lost)]
    assert {core.status(each) for each in ids} == {Status.QUEUED}
    core.assert_consistent()


@ALL
def test_claims_and_a_pause_at_once(core: Core, scope: PauseScope) -> None:
    """Each is claimed or goes back. What is claimed after the pause was answered is nothing."""
    report_worker(core, 40, DEFAULT_QUEUE)
    ids = [core.queued() for _ in range(12)]
    messages = [core.message(each) for each in ids]
    claiming = core.claiming()
    found = together(
        [
            *(lambda each=each: claiming(each, uuid4()) for each in messages[:6]),
            lambda: pause(core, scope),
        ]
    )
    claims = [each for each in found[:6] if each is not None]
    assert [claiming(each, uuid4()) for each in messages[6:]] == [None] * 6
    running = {each.lease.execution_id for each in claims}
    for each in ids:
        wanted = Status.RUNNING if each in running else Status.PENDING
        assert core.status(each) is wanted
    core.assert_consistent()
    resume(core, found[6])
    assert {core.status(each) for each in ids if each not in running} <= {Status.QUEUED}


@ALL
def test_pauses_and_resumes_at_once(core: Core, scope: PauseScope) -> None:
    ids = core.pending_many([{}] * 5)

    def both() -> None:
        resume(core, pause(core, scope))

    def tolerant() -> Pause | None:
        try:
            both()
        except NotFoundError:  # another one has ended the pause that both have found
            return None
        return None

    together([tolerant] * 4 + [lambda: pauses_of(core).hold()] * 2)
    assert core.count("pauses") == 0
    pauses_of(core).hold()
    sent(core)
    assert {core.status(each) for each in ids} == {Status.QUEUED}
    core.assert_consistent()


def test_siblings_that_are_paused_keep_their_places(core: Core) -> None:
    """A paused child counts among those that may run at once: no other takes its place."""
    claim, ids = parent_of(core, 3, parallel=2)
    parent = claim.lease.execution_id
    pause(core, PauseScope.TASK)
    for each in ids:
        core.unqueue(each)
    pauses_of(core).hold()
    with core.database.autocommit() as connection:
        assert children.release(connection, parent_id=parent) == []
    assert sorted(str(stored_holds(core)[each]) for each in ids) == ["parallel", "paused", "paused"]


def test_without_pauses_nothing_is_looked_for(core: Core) -> None:
    core.pending_many([{}] * 3)
    with core.database.autocommit() as connection:
        assert rows.set_aside(connection, limit=10) == 0
        assert rows.release(connection, limit=10) == 0


@pytest.mark.requirement("F13")
@pytest.mark.parametrize("sent_before", [False, True])
def test_what_is_set_aside_gives_its_slots_of_limits_back(core: Core, sent_before: bool) -> None:
    limits = TaskSpec.model_validate({"concurrency": [{"key": "'one'", "max": 1}]})
    first, other = Core(core.database, limits), Core(core.database, limits)
    other.actor = first.actor
    other.task = make_task(core.database, first.actor, spec=limits)
    held = first.pending() if not sent_before else first.queued()
    paused = pause(first, PauseScope.TASK)
    waiting = other.pending()
    if sent_before:
        assert first.claim(first.message(held)) is None
    pauses_of(first).hold()
    first.limits.some(100)
    assert stored_holds(core) == {held: "paused", waiting: None}
    core.assert_consistent()

    resume(first, paused)
    first.dispatch.release_due()
    first.limits.some(100)
    assert stored_holds(core) == {held: "limit", waiting: None}
    core.assert_consistent()


def test_a_paused_workflow_begins_no_step(flows: Flows) -> None:
    """Of its runs nothing begins; other workflows with the same task go on."""
    core = flows.core
    steps = {
        "first": {"task": "first"},
        "each": {"task": "each", "map": "input.list", "with": {"x": "${{ item }}"},
                 "needs": ["first"]},
    }  # fmt: skip
    paused_one, other = (
        flows.define(name, steps, input={"list": "array"}) for name in ("paused", "other")
    )
    begun = flows.start(paused_one, list=[1, 2, 3])
    claim = flows.take()
    assert claim is not None
    waiting = flows.start(paused_one, list=[1])  # its execution is there, and is set aside
    target = PauseTarget(PauseScope.WORKFLOW, workflow_id=paused_one)
    pause_of, _ = pauses_of(core).pause(core.actor, target, "The prompt is wrong.")
    assert pause_of.subject == "the workflow 'paused'"
    flows.end(claim)
    later = flows.start(paused_one, list=[])
    free = flows.start(other, list=[1])
    flows.drive()

    assert flows.ran(free).run.status is RunStatus.COMPLETED
    held = stored_holds(core)
    ended = {each for each in held if core.status(each) is Status.COMPLETED}
    assert {held[each] for each in held.keys() - ended} == {"paused"}
    assert len(held.keys() - ended) == 3 + 1 + 1
    reason = ExplainWaiting(core.database)(core.actor, min(held.keys() - ended)).reasons[0]
    said = f"{core.actor.name} has paused the workflow 'paused': The prompt is wrong."
    assert reason.text == said
    while pauses_of(core).hold():
        pass
    assert not flows.drive(), "the keeper releases none of it"
    core.assert_consistent()

    assert pauses_of(core).resume(core.actor, pause_of.id).left == 0
    flows.drive()
    assert {flows.ran(each).run.status for each in (begun, waiting, later)} == {RunStatus.COMPLETED}
    flows.assert_counted()
    pauses_of(core).pause(core.actor, target, "x")
    flows.workflows.delete(core.actor, "paused")
    assert core.count("pauses") == 0
