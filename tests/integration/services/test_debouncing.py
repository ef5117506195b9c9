"""Debounce: the newest of several submissions with one key runs alone, after a pause."""

from dataclasses import replace
from functools import partial
from uuid import UUID

import pytest
from sqlalchemy import text

from celeriac.db.executions import debounces
from celeriac.domain.errors import InputInvalidError
from celeriac.domain.executions.model import Idempotency, SubmitRequest
from celeriac.domain.executions.states import Held, Status
from celeriac.domain.executions.why import ReasonCode
from celeriac.domain.tasks import TaskSpec
from celeriac.domain.workflows.states import RunStatus
from celeriac.kit.json_types import JsonObject
from celeriac.services.executions.why import ExplainWaiting
from tests.support.core import Core
from tests.support.statements import sent
from tests.support.together import together
from tests.support.workflows import Flows

pytestmark = pytest.mark.requirement("F13")


def debounced(core: Core, **more: object) -> Core:
    given = {"debounce": {"key": "variables.key", "seconds": 1_000, **more}}
    return Core(core.database, TaskSpec.model_validate(given))


def submit(core: Core, text: str = "", key: str = "a", once: str | None = None) -> UUID:
    variables: JsonObject = {"key": key, "text": text}
    request = SubmitRequest(
        task_id=core.task,
        variables=variables,
        idempotency=None if once is None else Idempotency(once, "print"),
    )
    return core.submit(core.actor, request).execution_id


def due(core: Core, execution_id: UUID) -> bool:
    core.dispatch.send_due()
    return core.status(execution_id) is Status.QUEUED


@pytest.mark.failure("Q12")
def test_the_last_payload_runs_after_a_pause_and_says_how_many_it_replaced(core: Core) -> None:
    core = debounced(core)
    first = submit(core, "one")
    other = submit(core, "other", key="b")
    core.pass_time(600.0)
    second = submit(core, "two")
    core.pass_time(600.0)
    third = submit(core, "three")
    assert not due(core, third)
    for earlier, newer in ((first, second), (second, third)):
        found = core.get(earlier)
        assert (found.status, found.error_code) == (Status.CANCELLED, "superseded")
        assert str(newer) in (found.error_message or "")
    reason = ExplainWaiting(core.database)(core.actor, third).reasons[0]
    assert (reason.code, reason.count) == (ReasonCode.DEBOUNCE, 2)
    assert reason.until == core.get(third).available_at
    assert "debounced by the key 'a'" in reason.text
    core.pass_time(1100.0)
    assert due(core, third)
    assert due(core, other)
    found = core.get(third)
    assert (found.variables["text"], found.options.replaced) == ("three", 2)
    assert core.get(other).options.replaced == 0
    core.assert_consistent()


def test_it_waits_no_longer_than_the_longest_time(core: Core) -> None:
    core = debounced(core, max_seconds=1_500)
    submit(core)
    core.pass_time(800.0)
    last = submit(core)
    core.pass_time(800.0)
    assert due(core, last)
    assert core.get(last).options.replaced == 1
    assert core.get(submit(core)).options.replaced == 0


def test_what_is_due_or_has_begun_is_not_replaced(core: Core) -> None:
    core = debounced(core)
    first = submit(core)
    core.pass_time(1100.0)
    second = submit(core)
    assert due(core, first)
    claim = core.claim(core.message(first))
    assert claim is not None
    third = submit(core)
    assert core.status(first) is Status.RUNNING
    assert core.get(second).error_code == "superseded"
    assert core.get(third).options.replaced == 1
    core.assert_consistent()


def test_a_cancelled_one_is_not_counted(core: Core) -> None:
    core = debounced(core)
    core.cancel(core.actor, [submit(core)])
    assert core.get(submit(core)).options.replaced == 0


def test_a_repeated_request_replaces_nothing(core: Core) -> None:
    core = debounced(core)
    first = submit(core, once="k")
    assert submit(core, once="k") == first
    assert core.get(first).held is Held.TIME


def test_submissions_at_once_leave_one(core: Core) -> None:
    core = debounced(core)
    made = together([lambda: submit(core) for _ in range(8)])
    (left,) = [each for each in made if not core.status(each).terminal]
    assert core.get(left).options.replaced == 7
    core.assert_consistent()


def test_items_of_a_batch_are_debounced_as_if_each_were_submitted_by_itself(core: Core) -> None:
    core = debounced(core, max_seconds=1_500)
    earlier = submit(core, "zero", key="a")
    core.pass_time(800.0)
    given: list[JsonObject] = [
        {"key": key, "text": str(number)} for number, key in enumerate("abacb")
    ]
    ids = core.pending_many(given)
    ends = {each: core.get(each).error_code for each in (earlier, *ids)}
    assert list(ends.values()) == ["superseded", "superseded", "superseded", None, None, None]
    assert [core.get(each).options.replaced for each in ids[2:]] == [2, 0, 1]
    assert str(ids[2]) in (core.get(earlier).error_message or "")
    assert str(ids[2]) in (core.get(ids[0]).error_message or "")
    assert not any(due(core, each) for each in ids)
    core.pass_time(800.0)
    assert [due(core, each) for each in ids[2:]] == [True, False, False], "after the longest time"
    last = submit(core, key="b")
    assert core.get(last).options.replaced == 2, "one after another"
    core.pass_time(1_600.0)
    assert [due(core, each) for each in (ids[3], last)] == [True, True]
    assert [core.get(each).variables for each in ids] == given
    core.assert_consistent()


def test_a_batch_with_one_key_costs_no_statement_for_each_item(core: Core) -> None:
    core = debounced(core)
    core.pending_many([{"key": "a"}] * 2)  # connects, and prepares
    costs = []
    for many in (3, 60):
        with sent(core.database) as statements:
            *gone, last = core.pending_many([{"key": str(many)}] * many)
        costs.append(len(statements))
        assert {core.get(each).options.replaced for each in gone} == {0}
        assert core.get(last).options.replaced == many - 1
    assert costs[0] == costs[1]


def test_batches_at_once_leave_one_of_each_key(core: Core) -> None:
    core = debounced(core)
    batches = [[{"key": key} for key in keys] for keys in ("abc", "cba", "bbc", "cab") * 2]
    made = together([partial(core.pending_many, batch) for batch in batches])
    left = [each for ids in made for each in ids if not core.status(each).terminal]
    assert sorted(str(core.get(each).variables["key"]) for each in left) == ["a", "b", "c"]
    assert sum(core.get(each).options.replaced + 1 for each in left) == 24
    core.assert_consistent()


def test_what_is_waited_for_or_has_a_delay_of_its_own_is_not_debounced(flows: Flows) -> None:
    task = flows.add_task("each", debounce={"key": "variables.key", "seconds": 1_000})
    core = flows.core
    request = SubmitRequest(task_id=task, variables={"key": "a"}, delay_seconds=5.0)
    delayed = core.submit(core.actor, request).execution_id
    waiting = core.submit(core.actor, replace(request, delay_seconds=0.0)).execution_id
    item = {"task": "each", "map": "[1, 2]", "with": {"key": "a", "x": "${{ item }}"}}
    ran = flows.run({"items": item, "odd": {"task": "each", "with": {"x": 1}}})
    assert ran.status is RunStatus.COMPLETED
    assert sorted(each["x"] for _, each in flows.done) == [1, 1, 2]
    assert not any(core.status(each).terminal for each in (delayed, waiting))
    core.assert_consistent()


def test_tasks_do_not_replace_each_other(core: Core) -> None:
    one, other = debounced(core), debounced(core)
    first = submit(one)
    submit(other)
    assert not core.status(first).terminal


def test_what_waits_no_more_is_forgotten(core: Core) -> None:
    core = debounced(core)
    submit(core)
    assert core.limits.forget_rates(10) == 0
    core.pass_time(12000.0)
    assert core.limits.forget_rates(10) == 1
    assert core.count("debounces") == 0


def test_a_key_that_can_t_be_computed_is_refused(core: Core) -> None:
    core = debounced(core)
    with pytest.raises(InputInvalidError) as refused:
        core.submit(core.actor, SubmitRequest(task_id=core.task))
    assert refused.value.details["field"] == "debounce.key"
    assert core.count("executions") == 0


def test_other_tasks_pay_nothing(core: Core) -> None:
    core.queued()
    with sent(core.database) as statements:
        core.queued()
    assert not any("debounces" in each for each in statements)


def test_a_large_batch_takes_few_statements_and_few_locks(core: Core) -> None:
    """It took three statements for each key, and as many locks: a batch has up to 10,000 items."""
    core = debounced(core, max_seconds=1_500)
    keys = [f"key-{number}" for number in range(600)]
    items: list[JsonObject] = [{"key": key} for key in keys]
    earlier = core.pending_many(items)
    # each has waited for another time, and is due within the longest time
    core.execute(
        "UPDATE debounces SET first_at = first_at - make_interval(secs => 600 + replace(key,"
        " 'key-', '')::int)"
    )
    with sent(core.database) as statements:
        newer = core.pending_many(items)
    assert len(statements) < 40
    assert sum("INSERT INTO executions" in each for each in statements) == 1
    first, later = (core.get(newer[number]) for number in (0, 500))
    assert (first.options.replaced, later.options.replaced) == (1, 1)
    assert round((first.available_at - later.available_at).total_seconds()) == 500
    for old, new in zip(earlier, newer, strict=True):
        found = core.get(old)
        assert (found.status, found.error_code) == (Status.CANCELLED, "superseded")
        assert str(new) in (found.error_message or "")
    core.assert_consistent()
    with core.database.transaction() as connection:
        debounces.lock(connection, core.task, keys)
        held = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' "
                    "AND pid = pg_backend_pid()")  # fmt: skip
        assert 100 < connection.execute(held).scalar_one() <= 256
