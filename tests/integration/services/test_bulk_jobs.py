"""Bulk jobs: what is selected, what the keeper does with it, and what it says it has done."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from celeriac.db import retention as rows
from celeriac.db import workspaces
from celeriac.db.engine import Connection
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.bulk_actions import BulkAction, BulkOutcome, BulkStatus
from celeriac.domain.bulk_jobs import NewBulkJob
from celeriac.domain.errors import (
    ConflictError,
    DatabaseUnavailableError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
)
from celeriac.domain.executions.model import Completed, ExecutionFilter
from celeriac.domain.executions.states import Status
from celeriac.domain.tasks import Priority
from celeriac.kit.json_types import JsonObject
from celeriac.services.bulk_jobs.actions import Changing
from celeriac.services.catalog.tasks import Tasks
from celeriac.services.executions.change import Change
from tests.support.bulk_jobs import CANCEL, RETRY, BulkDesk, counts, fail, many
from tests.support.catalog import make_actor, make_colleague, make_task
from tests.support.core import Core
from tests.support.forgetful import ForgetfulDatabase
from tests.support.outages import holding
from tests.support.retention import places_in
from tests.support.together import together


@pytest.fixture
def bulk(core: Core) -> BulkDesk:
    """The bulk jobs of the core's workspace."""
    return BulkDesk(core)


@pytest.mark.requirement("F19")
def test_exactly_what_was_previewed_is_cancelled(core: Core, bulk: BulkDesk) -> None:
    running = core.running()
    completed = core.running()
    core.end(completed, Completed(1))
    gone, ends, *rest = many(core, 12)
    preview = bulk.preview()
    assert (preview.job.total, preview.job.more, preview.job.status) == (13, False, "preview")
    assert preview.statuses == {Status.PENDING: 12, Status.RUNNING: 1}
    assert [each.id for each in preview.sample] == [gone, ends, *rest][:10]
    assert (preview.looked_at, preview.unfit) == (13, {})
    assert bulk.finish() == 0, "a preview changes nothing"

    core.cancel(core.actor, [ends, gone])
    with core.database.transaction() as connection:
        rows.delete_executions(connection, [gone])
    late = core.pending()
    actor = replace(core.actor, request_id=str(uuid4()))
    job_id = bulk.jobs.start(actor, preview.job.id).id
    assert bulk.finish() == 13
    job = bulk.job(job_id)
    assert counts(job) == (BulkStatus.COMPLETED, 11, 2, 0)
    assert (job.position, job.reasons) == (13, {"not_found": 1, "ended": 1})
    skipped = bulk.items(job_id, BulkOutcome.SKIPPED, BulkOutcome.FAILED)
    assert [(each.execution_id, each.code, each.message) for each in skipped] == [
        (gone, "not_found", "It was deleted."),
        (
            ends,
            "ended",
            "The execution is cancelled; only one that has not ended can be cancelled.",
        ),
    ]
    done = bulk.items(job_id, BulkOutcome.DONE)
    assert [each.execution_id for each in done] == [*rest, running.lease.execution_id]
    assert {core.status(each) for each in rest} == {Status.CANCELLED}
    assert core.get(running.lease.execution_id).cancel_requested_by == core.actor.name
    assert core.status(late) is Status.PENDING, "it was not previewed"
    with core.database.autocommit() as connection:
        audited = connection.execute(
            text("SELECT action, actor_id, count(*) FROM audit_logs"
                 " WHERE action LIKE 'bulk_job.%' OR action = 'execution.cancel'"
                 " GROUP BY 1, 2 ORDER BY 1")
        ).all()  # fmt: skip
    assert [tuple(each) for each in audited] == [
        ("bulk_job.start", core.actor.user_id, 1),
        ("execution.cancel", core.actor.user_id, 13),
    ]
    assert bulk.jobs.start(actor, job_id) == job, "once"
    core.assert_consistent()


@pytest.mark.requirement("F19")
def test_retries_are_a_batch_and_the_others_say_why_not(core: Core, bulk: BulkDesk) -> None:
    first, second = fail(core), fail(core)
    other = make_task(core.database, core.actor)
    lone = core.pending_many([{}])[0]
    core.cancel(core.actor, [lone])
    core.execute("UPDATE executions SET task_id = :task WHERE id = :id", task=other, id=lone)
    Tasks(core.database).delete(core.actor, str(other))
    running = core.running().lease.execution_id
    preview = bulk.preview(RETRY, ids=[first, second, lone, running])
    assert preview.job.total == 4
    assert {key: reason.code for key, reason in preview.unfit.items()} == {
        lone: "conflict",
        running: "not_ended",
    }
    bulk.jobs.start(core.actor, preview.job.id)
    bulk.finish()
    job = bulk.job(preview.job.id)
    assert counts(job) == (BulkStatus.COMPLETED, 2, 2, 0)
    done = bulk.items(job.id, BulkOutcome.DONE)
    assert [each.execution_id for each in done] == [second, first]
    for each in done:
        assert each.new_execution_id is not None
        made = core.get(each.new_execution_id)
        assert (made.origin_id, made.batch_id) == (each.execution_id, job.id)
    assert bulk.preview(RETRY).job.total == 2, "failed ones by default"


@pytest.mark.parametrize(
    ("action", "arguments", "changed"),
    [
        (BulkAction.PRIORITISE, {"priority": "high"}, {"priority": Priority.HIGH}),
        (BulkAction.MOVE, {"to_queue": "spare"}, {"queue": "spare"}),
    ],
)
def test_what_waits_gets_another_place(
    core: Core, bulk: BulkDesk, action: BulkAction, arguments: JsonObject, changed: dict[str, Any]
) -> None:
    queued = core.queued()
    ended = fail(core)
    done_before, *rest = many(core, 3)
    change = Change(core.database, core.dispatch)
    if action is BulkAction.MOVE:
        change.move(core.actor, done_before, "spare")
    else:
        change.prioritise(core.actor, done_before, Priority.HIGH)
    preview = bulk.preview(action, arguments=arguments, ids=[queued, ended, done_before, *rest])
    unfit = {ended: "ended", done_before: "unchanged"}
    assert {key: reason.code for key, reason in preview.unfit.items()} == unfit
    bulk.jobs.start(core.actor, preview.job.id)
    bulk.finish()
    job = bulk.job(preview.job.id)
    assert counts(job) == (BulkStatus.COMPLETED, 3, 2, 0)
    assert job.arguments == arguments
    assert {each.execution_id: each.code for each in bulk.items(job.id) if each.code} == unfit
    for each in (queued, done_before, *rest):
        found = core.get(each)
        assert {name: getattr(found, name) for name in changed} == changed
    core.assert_consistent()


def test_labels_are_set_and_removed_where_they_fit(core: Core, bulk: BulkDesk) -> None:
    plain, has_them, full = many(core, 3)
    change = Change(core.database, core.dispatch)
    change.label(core.actor, has_them, {"reviewed": "yes"})
    change.label(core.actor, full, {f"k{number}": "a" for number in range(16)})
    core.cancel(core.actor, [plain])
    wanted = {"labels": {"reviewed": "yes", "draft": None}}
    preview = bulk.preview(BulkAction.LABEL, arguments=wanted)
    assert preview.job.total == 3, "whatever their status is"
    reasons = {has_them: "unchanged", full: "invalid_input"}
    assert {key: reason.code for key, reason in preview.unfit.items()} == reasons
    change.label(core.actor, plain, {"draft": "1", "customer": "acme"})
    bulk.jobs.start(core.actor, preview.job.id)
    bulk.finish()
    job = bulk.job(preview.job.id)
    assert counts(job) == (BulkStatus.COMPLETED, 1, 2, 0)
    assert {each.execution_id: each.code for each in bulk.items(job.id) if each.code} == reasons
    assert core.get(plain).labels == {"customer": "acme", "reviewed": "yes"}
    assert len(core.get(full).labels) == 16
    core.assert_consistent()


@pytest.mark.requirement("F19")
def test_what_has_ended_is_deleted_with_all_that_is_its(core: Core, tmp_path: Path) -> None:
    places = places_in(tmp_path)
    desk = BulkDesk(core, places=places)
    parent = core.running().lease.execution_id
    child, gone, delivered = fail(core), fail(core), fail(core)
    waiting = core.pending()
    core.execute("UPDATE executions SET parent_id = :parent WHERE id = :id",
                 parent=parent, id=child)  # fmt: skip
    core.execute("INSERT INTO deliveries (id, workspace_id, lane, event, execution_id)"
                 " VALUES (:id, :workspace, :id, 'execution.failed', :execution)",
                 id=uuid4(), workspace=core.actor.workspace_id, execution=delivered)  # fmt: skip
    for each in (child, gone):
        places.workdir(each).mkdir(parents=True)
        (places.workdir(each) / "notes").write_text("a")
    places.logs.mkdir()
    places.log_file(gone).write_text("a line")
    job_id = desk.started(BulkAction.DELETE)
    assert desk.finish() == 3
    assert counts(desk.job(job_id)) == (BulkStatus.COMPLETED, 1, 2, 0)
    assert desk.job(job_id).reasons == {"in_use": 2}
    assert [each.execution_id for each in desk.items(job_id, BulkOutcome.DONE)] == [gone]
    assert {core.status(each) for each in (child, delivered)} == {Status.FAILED}
    assert core.status(waiting) is Status.PENDING
    assert core.events(gone) == []
    assert [places.workdir(each).exists() for each in (child, gone)] == [True, False]
    assert not places.log_file(gone).exists()
    with core.database.autocommit() as connection:
        query = text("SELECT resource_id FROM audit_logs WHERE action = 'execution.delete'")
        assert list(connection.execute(query).scalars()) == [str(gone)]
    core.assert_consistent()


@pytest.mark.parametrize("loss", ["losses", "late"])
def test_nothing_is_done_twice_when_answers_are_lost(core: Core, loss: str) -> None:
    origins = {fail(core) for _ in range(7)}
    forgetful = ForgetfulDatabase(core.database)
    desk = BulkDesk(core, forgetful, batch=2)
    job_id = BulkDesk(core).started(RETRY)
    prepare = desk.performers[RETRY].prepare

    class Losing:
        """Loses the answer of the transaction that follows."""

        include = ("variables",)
        unfit = desk.performers[RETRY].unfit

        def prepare(self, *given: Any, **more: Any) -> Any:
            prepared = prepare(*given, **more)
            setattr(forgetful, loss, 1)
            return prepared

    desk.performers[RETRY] = Losing()
    lost = 0
    for _ in range(50):
        try:
            desk.work()
        except DatabaseUnavailableError:
            lost += 1
        forgetful.settle()
        if desk.job(job_id).status.terminal:
            break
    forgetful.close()
    assert lost >= 4
    assert counts(BulkDesk(core).job(job_id)) == (BulkStatus.COMPLETED, 7, 0, 0)
    with core.database.autocommit() as connection:
        made = connection.execute(
            text("SELECT origin_id FROM executions WHERE batch_id = :id"), {"id": job_id}
        ).scalars()
        assert sorted(made) == sorted(origins)


def test_one_that_fails_does_not_hold_up_the_others(core: Core, bulk: BulkDesk) -> None:
    ids = many(core, 5)
    good = bulk.performers[CANCEL]
    assert isinstance(good, Changing)

    def change(connection: Connection, actor: Actor, given: Any, wanted: Sequence[UUID]) -> Any:
        changed = good.change(connection, actor, given, wanted)
        if ids[2] in wanted:
            raise ValueError("a fault")
        return changed

    bulk.performers[CANCEL] = replace(good, change=change)
    job_id = bulk.started()
    assert bulk.finish() == 5
    job = bulk.job(job_id)
    assert (counts(job), job.reasons) == (
        (BulkStatus.COMPLETED, 4, 0, 1),
        {"internal_error": 1},
    )
    (failed,) = bulk.items(job_id, BulkOutcome.FAILED)
    assert (failed.execution_id, failed.message) == (
        ids[2],
        "ValueError; the log of the keeper has more.",
    )
    assert core.status(ids[2]) is Status.PENDING


def test_a_keeper_leaves_jobs_of_later_releases_alone(core: Core, bulk: BulkDesk) -> None:
    many(core, 1)
    job_id = bulk.started()
    older = BulkDesk(core)
    del older.performers[CANCEL]
    assert older.work() == 0
    assert bulk.job(job_id).status is BulkStatus.PENDING
    assert bulk.finish() == 1


def test_a_stopped_job_does_no_more(core: Core) -> None:
    desk = BulkDesk(core, batch=3)
    ids = many(core, 8)
    job_id = desk.started()
    assert desk.work() == 3
    assert counts(desk.job(job_id)) == (BulkStatus.RUNNING, 3, 0, 0)
    stopped = desk.jobs.stop(core.actor, job_id)
    assert counts(stopped) == (BulkStatus.STOPPED, 3, 0, 0)
    assert stopped.stopped_by == core.actor.name
    assert desk.work() == 0
    assert [core.status(each) for each in ids] == [Status.CANCELLED] * 3 + [Status.PENDING] * 5
    assert desk.jobs.stop(core.actor, job_id) == stopped
    with pytest.raises(ConflictError, match="preview"):
        desk.jobs.stop(core.actor, desk.preview().job.id)


def test_workspaces_and_keepers_take_turns(core: Core) -> None:
    desk = BulkDesk(core, batch=2)
    many(core, 9)
    mine, next_one = desk.started(), desk.started()
    other = Core(core.database)
    many(other, 2)
    theirs = BulkDesk(other).started()
    assert desk.work() == 4, "a batch of each workspace"
    assert desk.work() == 2
    assert BulkDesk(other).job(theirs).status is BulkStatus.COMPLETED
    assert [desk.job(each).position for each in (mine, next_one)] == [2, 2]
    while any(together([desk.work, BulkDesk(core, batch=3).work])):
        pass
    jobs = [desk.job(each) for each in (mine, next_one)]
    assert {job.status for job in jobs} == {BulkStatus.COMPLETED}
    assert sum(job.done for job in jobs) == 9, "each is cancelled once"
    assert [job.done + job.skipped for job in jobs] == [9, 9]


def test_a_locked_execution_delays_its_job_alone(core: Core, bulk: BulkDesk) -> None:
    locked, *_ = many(core, 3)
    mine = bulk.started()
    other = Core(core.database)
    many(other, 2)
    theirs = BulkDesk(other).started()
    held = f"SELECT FROM executions WHERE id = '{locked}' FOR UPDATE"
    with holding(core.database.engine.url, held):
        assert bulk.work() == 2
        assert counts(bulk.job(mine)) == (BulkStatus.RUNNING, 0, 0, 0)
        assert BulkDesk(other).job(theirs).status is BulkStatus.COMPLETED
    assert bulk.finish() == 3
    assert counts(bulk.job(mine)) == (BulkStatus.COMPLETED, 3, 0, 0)


def test_a_job_has_the_rights_that_its_owner_has_now(core: Core, bulk: BulkDesk) -> None:
    ids = many(core, 2)
    colleague = make_colleague(core.database, core.actor)
    viewer = make_colleague(core.database, core.actor, Role.VIEWER)
    with pytest.raises(ForbiddenError):
        bulk.preview(actor=viewer)
    mine = bulk.preview().job.id
    with pytest.raises(ForbiddenError, match="has made this preview"):
        bulk.jobs.start(colleague, mine)
    stranger = make_actor(core.database)
    for ask in (bulk.jobs.get, bulk.jobs.start, bulk.jobs.stop, bulk.jobs.items):
        with pytest.raises(NotFoundError):
            ask(stranger, mine)
    assert bulk.preview(actor=stranger, ids=ids).job.total == 0, "they see nothing of it"
    theirs = bulk.started(actor=colleague)
    with core.database.transaction() as connection:
        workspaces.change_member(
            connection, core.actor.workspace_id, colleague.user_id, Role.VIEWER
        )
    assert bulk.finish() == 0
    job = bulk.job(theirs)
    assert (job.status, job.error) == (
        BulkStatus.FAILED,
        "This needs the role operator; yours is viewer. Use a key with that role.",
    )
    assert {core.status(each) for each in ids} == {Status.PENDING}


def test_previews_and_jobs_are_bounded_and_expire(core: Core, bulk: BulkDesk) -> None:
    ids = many(core, 4)
    part = bulk.preview(limit=3)
    assert (part.job.total, part.job.more) == (3, True)
    first = part.job.id
    previews = [bulk.preview().job.id for _ in range(10)]
    with pytest.raises(NotFoundError):
        bulk.job(first)
    core.execute("UPDATE bulk_jobs SET created_at = now() - interval '61 minutes'")
    with pytest.raises(ConflictError, match="expired"):
        bulk.jobs.start(core.actor, previews[0])
    bulk.work()
    with pytest.raises(NotFoundError):
        bulk.job(previews[-1])
    for _ in range(20):
        bulk.started()
    with pytest.raises(ConflictError, match="20 bulk jobs"):
        bulk.started()
    bulk.finish()
    page = bulk.jobs.find(core.actor, limit=15)
    assert len(page.items) == 15
    assert len(bulk.jobs.find(core.actor, cursor=page.next_cursor, limit=15).items) == 5
    core.execute("UPDATE bulk_jobs SET completed_at = completed_at - interval '2 days',"
                 " id = overlay(id::text placing '0192' from 1 for 4)::uuid WHERE id = :id",
                 id=page.items[0].id)  # fmt: skip
    core.execute("UPDATE bulk_job_items SET"
                 " job_id = overlay(job_id::text placing '0192' from 1 for 4)::uuid"
                 " WHERE job_id = :id", id=page.items[0].id)  # fmt: skip
    with core.database.transaction() as connection:
        assert rows.delete_bulk_jobs(connection, days=1, limit=100) == 1 + len(ids)
    assert core.count("bulk_jobs") == 19 + 1, "and the last preview"
    assert core.count("bulk_job_items") == 19 * len(ids)


@pytest.mark.parametrize(
    ("action", "wanted", "field"),
    [
        (CANCEL, {}, "filter"),
        (CANCEL, {"statuses": [Status.COMPLETED]}, "filter.status"),
        (RETRY, {"statuses": [Status.FAILED, Status.RUNNING]}, "filter.status"),
        (RETRY, {"queue": "night"}, "filter.queue"),
        (BulkAction.MOVE, {"queue": "night"}, "to_queue"),
    ],
)
def test_a_filter_that_selects_the_wrong_is_refused(
    bulk: BulkDesk, action: BulkAction, wanted: dict[str, Any], field: str
) -> None:
    given = dict.fromkeys(wanted, "given")
    new = NewBulkJob(action=action, arguments={}, given=given, wanted=ExecutionFilter(**wanted))
    with pytest.raises(InvalidInputError) as refused:
        bulk.jobs.preview(bulk.core.actor, new)
    assert refused.value.field == field
    assert bulk.core.count("bulk_jobs") == 0
