"""Limits of a workspace: changed while executions live, and given to those that wait already."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Thread
from uuid import UUID

import pytest
from sqlalchemy import text

from celeriac.db import limits as rows
from celeriac.db import workspaces
from celeriac.db.catalog import TASKS
from celeriac.domain.errors import (
    ConflictError,
    ForbiddenError,
    InputInvalidError,
    InvalidInputError,
    LimitReachedError,
    NameTakenError,
    NotFoundError,
)
from celeriac.domain.executions.model import Claim, Completed, SubmitRequest
from celeriac.domain.executions.pauses import PauseScope, PauseTarget
from celeriac.domain.executions.states import Held, Status
from celeriac.domain.executions.why import ReasonCode
from celeriac.domain.tasks import TaskSpec
from celeriac.domain.workflows.states import RunStatus
from celeriac.domain.workspace_limits import MOST_OF_ONE, LimitSpec
from celeriac.services.executions import attach
from celeriac.services.executions import pauses as service
from celeriac.services.executions.attach import AttachLimits
from celeriac.services.executions.stop import Cancel
from celeriac.services.executions.why import ExplainWaiting
from tests.integration.services.test_worker_leases import waits_for_lock
from tests.support.core import LIMIT, Core
from tests.support.pauses import REASON, boss, pause, pauses_of, resume, stored_holds
from tests.support.statements import sent
from tests.support.waiting import wait_until
from tests.support.workflows import Flows
from tests.support.workspace_limits import admin_of, limit, limits_of, walk

pytestmark = pytest.mark.requirement("F13")

KEY = "variables.key"


def submit(core: Core, key: str | None = "a") -> UUID:
    variables = {} if key is None else {"key": key}
    return core.submit(
        core.actor, SubmitRequest(task_id=core.task, variables=variables)
    ).execution_id


def waits(core: Core, execution_id: UUID) -> bool:
    found = core.get(execution_id)
    return (found.status, found.held) == (Status.PENDING, Held.LIMIT)


def keep(core: Core) -> None:
    """Do what the keeper does twice a second."""
    walk(core)
    pauses_of(core).hold()
    core.dispatch.release_due()
    core.limits.some(LIMIT)
    core.dispatch.send_due()


def start(core: Core, execution_id: UUID) -> Claim:
    claim = core.claim(core.message(execution_id))
    assert claim is not None, "it has no slot"
    return claim


def test_a_changed_number_holds_at_once_and_cancels_nothing(core: Core) -> None:
    made = limit(core, key=KEY, max=2)
    ids = [submit(core) for _ in range(5)]
    other, without = submit(core, "b"), submit(core, None)
    assert [core.status(each) for each in (*ids[:2], other, without)] == [Status.QUEUED] * 4
    assert [waits(core, each) for each in ids] == [False, False, True, True, True]
    assert core.get(ids[0]).limit_keys == ["limit:keys:a"]
    assert core.get(without).limit_keys is None, "a variable is missing: it is not limited"
    reason = ExplainWaiting(core.database)(core.actor, ids[3]).reasons[0]
    assert reason.code is ReasonCode.LIMIT
    assert "The limit 'keys' of the workspace" in reason.text
    assert "'limit:keys:a'" in reason.text
    assert reason.subject is not None
    assert (reason.subject.kind, reason.subject.id) == ("limit", str(made.id))

    limits = limits_of(core)
    raised = limits.change(admin_of(core), "keys", {"max": 4})
    assert (raised.use.held, raised.use.waiting) == (5, 1), "with the one of the other key"
    assert [core.status(each) for each in ids[2:4]] == [Status.QUEUED] * 2, "without a keeper"

    limits.change(admin_of(core), str(made.id), {"max": 1})
    claims = [start(core, each) for each in ids[:4]]
    for claim in claims[:3]:
        core.end(claim, Completed(1))
        keep(core)
        assert waits(core, ids[4]), "others still run"
    core.end(claims[3], Completed(1))
    keep(core)
    assert core.status(ids[4]) is Status.QUEUED
    core.assert_consistent()


def test_a_new_limit_holds_for_what_waits_and_counts_what_runs(core: Core) -> None:
    core = Core(core.database, TaskSpec.model_validate({"concurrency": [{"key": KEY, "max": 3}]}))
    running = [start(core, submit(core)) for _ in range(2)]
    queued = submit(core)
    before = submit(core), submit(core, "b")  # in a line, and sent
    free, later = core.pending_many([{"key": "c"}, {"key": "c"}])
    limit(core, key=KEY, max=1, policy="cancel_new")

    keep(core)

    held = {each: core.get(each).limit_keys for each in (*before, queued, free, later)}
    assert all(keys is not None and len(keys) == 2 for keys in held.values())
    assert core.status(queued) is Status.QUEUED, "what is sent has a slot"
    assert waits(core, before[0])
    assert core.status(before[1]) is Status.QUEUED
    assert [core.status(free), waits(core, later)] == [Status.QUEUED, True], "one of them"
    core.assert_consistent()
    with pytest.raises(LimitReachedError, match="limit:keys:c"):
        submit(core, "c")

    # what was claimed without the limit gives its slot back like all others
    for claim in (*running, start(core, queued)):
        assert waits(core, before[0]), "more run than there are slots"
        core.end(claim, Completed(1))
        keep(core)
    assert core.status(before[0]) is Status.QUEUED
    core.assert_consistent()

    # what a transaction stores that has not seen the limit is found by the second walk
    core.execute("UPDATE limits SET deleted_at = now()")
    core.execute("UPDATE workspaces SET limits_revision = limits_revision + 1")
    late = submit(core, "c")
    core.execute("UPDATE limits SET deleted_at = NULL")
    keep(core)
    assert "limit:keys:c" not in (core.get(late).limit_keys or ())
    core.execute("UPDATE limits SET look_at = now()")
    keep(core)
    assert "limit:keys:c" in (core.get(late).limit_keys or ())
    assert core.count("limits WHERE look_at IS NOT NULL") == 0, "the walks are over"
    core.assert_consistent()


def test_a_limit_that_fails_holds_up_no_other_and_only_its_own_data_is_read(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = core.pending_many([{"key": "a"}, {"key": "b"}, {"key": "a"}])
    limit(core, "broken", key=KEY, max=1)
    core.execute("UPDATE limits SET key = '((', look_at = look_at - interval '1 hour'")
    limit(core, "all", max=5)
    limit(core, "users", key="user", max=5)
    with sent(core.database) as statements:
        walk(core)
    assert [len(core.get(each).limit_keys or ()) for each in ids] == [2, 2, 2]
    assert not any("execution_inputs" in each for each in statements), "no key needs variables"
    assert core.count("limits WHERE name = 'broken' AND walks = 2 AND look_at > now()") == 1

    core.execute(f"UPDATE limits SET key = '{KEY}', look_at = now() WHERE name = 'broken'")
    monkeypatch.setattr(attach, "_MOST_BYTES", 1)
    keeper = AttachLimits(core.database)
    assert [keeper() for _ in range(4)] == [1, 1, 1, 0], "each is read by itself"
    keys = [set(core.get(each).limit_keys or ()) for each in ids]
    assert [f"limit:broken:{key}" in of for key, of in zip("aba", keys, strict=True)] == [True] * 3


def test_a_deleted_limit_limits_nothing_and_its_name_is_free(core: Core) -> None:
    limit(core, of_task=True, max=1)
    first, second = submit(core), submit(core)
    assert core.get(first).limit_keys == ["limit:keys"]
    assert waits(core, second)

    limits_of(core).delete(core.actor, "keys")

    assert core.status(second) is Status.QUEUED, "at once"
    assert core.get(submit(core)).limit_keys is None
    with pytest.raises(NotFoundError):
        limits_of(core).get(core.actor, "keys")
    again = limit(core, of_task=True, max=2)
    keep(core)
    third = submit(core)
    assert waits(core, third), "what runs counts for the new one"
    assert limits_of(core).get(core.actor, "keys").use.held == 3

    for each in (first, second):
        core.end(start(core, each), Completed(1))
    core.execute("UPDATE limits SET look_at = now() WHERE deleted_at IS NOT NULL")
    keep(core)
    assert core.count("limits") == 1, "no execution names the old one"
    assert core.status(third) is Status.QUEUED
    assert limits_of(core).get(core.actor, str(again.id)).limit == again.limit
    core.assert_consistent()


def test_stale_processes_neither_pass_a_limit_nor_refuse_by_an_old_one(core: Core) -> None:
    submit(core)
    stale = core.submit
    limit(core, key=KEY, max=1, policy="cancel_new")
    request = SubmitRequest(task_id=core.task, variables={"key": "x"})
    stale(core.actor, request)
    with pytest.raises(LimitReachedError):
        stale(core.actor, request)
    core.start_afresh()  # another process changes it
    limits_of(core).change(admin_of(core), "keys", {"policy": "queue"})
    assert waits(core, stale(core.actor, request).execution_id)
    limits_of(core).change(admin_of(core), "keys", {"max": 3, "policy": "cancel_new"})
    assert not waits(core, stale(core.actor, request).execution_id)
    limits_of(core).delete(admin_of(core), "keys")
    assert core.get(stale(core.actor, request).execution_id).limit_keys is None
    core.assert_consistent()


def test_a_rate_of_the_workspace(core: Core) -> None:
    limit(core, key=KEY, max=1, seconds=60)
    first, second = submit(core), submit(core)
    assert [core.status(first), waits(core, second)] == [Status.QUEUED, True]
    reason = ExplainWaiting(core.database)(core.actor, second).reasons[0]
    assert reason.until is not None
    assert "1 execution begin in 60 s" in reason.text
    for extreme in ({"max": 1_000_000, "seconds": 1e-320}, {"seconds": 3e7, "burst": 1_000_000}):
        with pytest.raises(InvalidInputError, match=r"a second|100 years"):
            limits_of(core).change(admin_of(core), "keys", extreme)
        core.limits.some(LIMIT)  # of all workspaces: the numbers of one must not end it
    limits_of(core).change(admin_of(core), "keys", {"max": 60, "burst": 61})
    assert core.status(second) is Status.QUEUED
    with pytest.raises(InvalidInputError, match="another limit"):
        limits_of(core).change(admin_of(core), "keys", {"seconds": None})
    with pytest.raises(InvalidInputError, match="policy queue"):
        limits_of(core).change(admin_of(core), "keys", {"policy": "cancel_new"})


def test_a_batch_of_which_some_are_limited(core: Core) -> None:
    limit(core, key="variables.key", max=1)
    ids = core.pending_many([{"key": "a"}, {}, {"key": "a"}, {"key": "b"}])
    core.dispatch.send_due()
    assert [waits(core, each) for each in ids] == [False, False, True, False]
    assert [core.status(each) for each in (*ids[:2], ids[3])] == [Status.QUEUED] * 3
    with pytest.raises(InputInvalidError, match="limit 'keys'"):
        core.pending_many([{"key": {}}])  # odd variables are no way around it
    core.assert_consistent()


def test_who_may_set_a_limit_and_how_many_there_are(core: Core) -> None:
    with pytest.raises(ForbiddenError):
        limits_of(core).create(core.actor, "all", limit(core, max=1).limit.spec)
    with pytest.raises(ForbiddenError):
        limits_of(core).delete(core.actor, "keys")
    with pytest.raises(NameTakenError):
        limit(core, max=1)
    for number in range(MOST_OF_ONE):
        limit(core, f"task-{number}", of_task=True, max=100)
    with pytest.raises(ConflictError, match="The task has 8 limits"):
        limit(core, "one-more", of_task=True, max=1)
    assert core.count("audit_logs WHERE action = 'limit.create'") == 1 + MOST_OF_ONE


def test_no_number_is_exceeded_while_it_changes_and_many_submit(core: Core) -> None:
    """Submissions, ends and changes at once: then as many have slots as there are, none waits."""
    limit(core, key=KEY, max=2)
    ids: list[UUID] = []

    def some() -> None:
        ids.extend(submit(core) for _ in range(8))

    threads = [Thread(target=some) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in (5, 1, 3):
        limits_of(core).change(admin_of(core), "keys", {"max": number})
    for thread in threads:
        thread.join()
    ended = 0
    while ended < len(ids):
        keep(core)
        free = [each for each in ids if core.status(each) is Status.QUEUED]
        assert free, "somebody waits with a free slot"
        assert ended or len(free) <= 5
        for each in free:
            core.end(start(core, each), Completed(1))
        ended += len(free)
    assert core.count("execution_limits") == 0
    core.assert_consistent()


def test_a_paused_limit_or_key_gives_no_slots(core: Core) -> None:
    core = Core(core.database, TaskSpec.model_validate({"concurrency": [{"key": KEY, "max": 3}]}))
    made = limit(core, "all", key="'x'", max=50)
    pauses = pauses_of(core)
    sent_before = submit(core)
    of_limit = PauseTarget(PauseScope.LIMIT, limit_id=made.id)
    paused, _ = pauses.pause(admin_of(core), of_limit, REASON)
    ids = submit(core), submit(core, "b")
    keep(core)
    assert [waits(core, each) for each in ids] == [True, True]
    core.end(start(core, sent_before), Completed(1))
    keep(core)
    reasons = ExplainWaiting(core.database)(core.actor, ids[0]).reasons
    assert reasons[0].code is ReasonCode.PAUSE
    assert reasons[0].text == f"{core.actor.name} has paused the limit 'all': {REASON}"
    with pytest.raises(ForbiddenError):
        pauses.resume(core.actor, paused.id)
    of_key = PauseTarget(PauseScope.KEY, key="a")
    key, _ = pauses.pause(core.actor, of_key, REASON)
    assert (key.subject, pauses.pause(core.actor, of_key, "again")) == ("the key 'a'", (key, False))

    pauses.resume(admin_of(core), paused.id)
    assert [waits(core, each) for each in ids] == [True, False], "the key is paused, too"
    assert pauses.resume(core.actor, key.id).pause == key
    assert not waits(core, ids[0]), "without the keeper"
    core.assert_consistent()

    limit(core, "whole", max=9)
    with pytest.raises(InvalidInputError, match="pause the limit"):
        pauses.pause(core.actor, PauseTarget(PauseScope.KEY, key="limit:whole"), REASON)
    with pytest.raises(ForbiddenError):
        pauses.pause(core.actor, of_limit, REASON)
    with pytest.raises(NotFoundError):
        pauses.pause(admin_of(core), PauseTarget(PauseScope.LIMIT, limit_id=core.task), REASON)
    pauses.pause(admin_of(core), of_limit, REASON)
    waiting = submit(core)
    limits_of(core).delete(admin_of(core), "all")
    assert core.count("pauses") == 0
    assert core.status(waiting) is Status.QUEUED


def test_a_limit_that_is_being_deleted_gets_no_pause(core: Core) -> None:
    made = limit(core, "all", max=5)
    of_limit = PauseTarget(PauseScope.LIMIT, limit_id=made.id)
    with ThreadPoolExecutor(1) as pool:
        with core.database.transaction() as connection:
            assert rows.get(connection, made.id, workspace=core.actor.workspace_id, lock=True)
            rows.delete(connection, made.id)
            paused = pool.submit(pauses_of(core).pause, admin_of(core), of_limit, REASON)
            wait_until(lambda: waits_for_lock(core), "the pause waits for the deletion")
        with pytest.raises(NotFoundError):
            paused.result(10)
    assert core.count("pauses") == 0


def test_a_workspace_is_locked_before_its_limits_and_a_task_before_its_own(core: Core) -> None:
    """Else the deletion of a workspace and the change of one of its limits wait for each other."""
    limits, admin, workspace = limits_of(core), admin_of(core), core.actor.workspace_id
    *_, third = (limit(core, name, of_task=True, max=1) for name in "abc")
    of_limit = PauseTarget(PauseScope.LIMIT, limit_id=third.id)
    acts: list[Callable[[], object]] = [
        partial(limits.change, admin, "a", {"policy": "cancel_new"}),
        partial(limits.delete, admin, "b"),
        partial(pauses_of(core).pause, admin, of_limit, REASON),
        partial(limit, core, "d", max=1),
    ]
    with ThreadPoolExecutor(len(acts)) as pool:
        with core.database.transaction() as connection:
            assert workspaces.lock(connection, workspace)
            running = [pool.submit(act) for act in acts]
            wait_until(lambda: count_of_waits(core) == len(acts), "all wait for the workspace")
            connection.execute(text("SELECT FROM limits FOR UPDATE NOWAIT"))
        for each in running:
            each.result(10)

        with core.database.transaction() as connection:
            TASKS.by_id(connection, core.task, workspace=workspace, lock=True)
            deletion = pool.submit(delete_and_roll_back, core, workspace)
            wait_until(lambda: waits_for_lock(core), "the deletion waits for the task")
            connection.execute(text("SELECT FROM limits FOR UPDATE NOWAIT"))
        assert deletion.result(10)
    assert core.count("limits WHERE deleted_at IS NULL") == 3


def count_of_waits(core: Core) -> int:
    waits = "pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    return core.count(waits)


def delete_and_roll_back(core: Core, workspace: UUID) -> bool:
    """Delete a workspace in a transaction that is rolled back."""
    with core.database.transaction() as connection:
        workspaces.end(connection, workspace)
        connection.rollback()
    return True


def test_what_waits_for_a_paused_queue_keeps_no_slot(core: Core) -> None:
    core = Core(core.database, TaskSpec.model_validate({"concurrency": [{"key": KEY, "max": 1}]}))
    running = start(core, submit(core))
    first = submit(core)
    elsewhere = core.submit(
        core.actor, SubmitRequest(task_id=core.task, variables={"key": "a"}, queue="gpu")
    ).execution_id
    core.end(running, Completed(1))
    core.limits.some(LIMIT)  # it has the slot, and is not sent yet
    assert core.get(first).held is None
    assert waits(core, elsewhere)

    paused = pause(core, PauseScope.QUEUE)
    keep(core)

    assert core.status(elsewhere) is Status.QUEUED, "the slot is not kept by what can't begin"
    assert stored_holds(core)[first] == "paused"
    behind, last = submit(core), submit(core)  # they wait in line
    core.end(start(core, elsewhere), Completed(1))
    keep(core)
    assert stored_holds(core)[behind] == stored_holds(core)[last] == "paused"
    assert core.count("execution_limits WHERE state <> 'none'") == 0, "nothing waits in line"
    core.assert_consistent()

    resume(core, paused)
    keep(core)
    assert [core.status(each) for each in (first, behind)] == [Status.QUEUED, Status.PENDING]
    core.assert_consistent()

    # what is at the broker gives its slot back when a worker takes it
    message = core.message(first)
    paused = pause(core, PauseScope.SYSTEM)
    assert core.claim(message) is None
    assert stored_holds(core)[first] == "paused"
    assert core.count("execution_limits WHERE state = 'held'") == 0
    resume(core, paused)
    keep(core)
    for each in (first, behind, last):
        core.end(start(core, each), Completed(1))
        keep(core)
    assert core.count("execution_limits") == 0
    core.assert_consistent()


def test_an_end_without_a_worker_wakes_who_waits_for_the_slot(core: Core) -> None:
    core = Core(core.database, TaskSpec.model_validate({"concurrency": [{"key": KEY, "max": 1}]}))
    ids = [submit(core) for _ in range(3)]

    def ended(execution_ids: Sequence[UUID]) -> None:
        core.limits.after_ends(execution_ids)

    Cancel(core.database, core.live, ended)(core.actor, ids[:1])
    assert [core.get(each).held for each in ids[1:]] == [None, Held.LIMIT]
    core.assert_consistent()


def test_a_resume_answers_at_once_with_what_is_left(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_AT_ONCE", 3)
    ids = core.pending_many([{}] * 8)
    paused = pause(core, PauseScope.TASK)
    ended = pauses_of(core).resume(boss(core), paused.id)
    assert (ended.pause, ended.left) == (paused, 5)
    while pauses_of(core).hold():
        pass
    core.dispatch.send_due()
    assert [core.status(each) for each in ids] == [Status.QUEUED] * 8


def test_a_limit_of_a_workflow_is_about_its_steps_alone(flows: Flows) -> None:
    core = flows.core
    steps = {"each": {"task": "each", "map": "input.list", "with": {"x": "${{ item }}"}}}
    limited, other = (
        flows.define(name, steps, input={"list": "array"}) for name in ("limited", "other")
    )
    before = flows.start(limited, list=[1, 2])
    flows.start(other, list=[1])
    made = limits_of(core).create(core.actor, "steps", LimitSpec(max=1), workflow_id=limited)
    walk(core)
    after, free = flows.start(limited, list=[1, 2]), flows.start(other, list=[1])
    claims = list(iter(flows.take, None))
    assert len(claims) >= 3, "those that were sent before, and those of the other workflow"
    used = limits_of(core).get(core.actor, "steps")
    assert used.limit.workflow_name == "limited"
    assert used.use.held + used.use.waiting == 4
    core.assert_consistent()
    for claim in claims:
        flows.end(claim)
    keep(core)
    while (one := flows.take()) is not None:
        assert limits_of(core).get(core.actor, "steps").use.held == 1
        flows.end(one)
        keep(core)
    for each in (before, after, free):
        assert flows.ran(each).status is RunStatus.COMPLETED
    flows.assert_counted()
    flows.workflows.delete(core.actor, "limited")
    with pytest.raises(NotFoundError):
        limits_of(core).get(core.actor, str(made.id))
