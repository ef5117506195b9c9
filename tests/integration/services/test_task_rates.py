"""Rates by key of tasks: how many may begin in a time."""

from uuid import UUID

import pytest

from celeriac.domain.errors import InputInvalidError
from celeriac.domain.executions.model import Claim, Completed, SubmitRequest
from celeriac.domain.executions.states import Held, Status
from celeriac.domain.executions.why import ReasonCode
from celeriac.domain.tasks import TaskSpec
from celeriac.kit.json_types import JsonObject
from celeriac.services.executions.why import ExplainWaiting
from tests.support.core import LIMIT, Core
from tests.support.together import together

pytestmark = pytest.mark.requirement("F13")

TEN_AN_HOUR = {"key": "variables.key", "max": 10, "seconds": 3_600, "burst": 3}
INTERVAL = 360.0


def rated(core: Core, *rates: JsonObject, concurrency: list[JsonObject] | None = None) -> Core:
    """Return the core with a task that has these rates."""
    given = {"rates": list(rates), "concurrency": concurrency or []}
    return Core(core.database, TaskSpec.model_validate(given))


def submit(core: Core, key: str = "a") -> UUID:
    request = SubmitRequest(task_id=core.task, variables={"key": key})
    return core.submit(core.actor, request).execution_id


def keep(core: Core) -> None:
    """Do what the keeper does twice a second."""
    core.dispatch.release_due()
    core.limits.some(LIMIT)
    core.dispatch.send_due()


def begun(core: Core, *ids: UUID) -> list[bool]:
    return [core.get(each).held is not Held.LIMIT for each in ids]


def start(core: Core, execution_id: UUID) -> Claim:
    core.dispatch.send_due()
    claim = core.claim(core.message(execution_id))
    assert claim is not None, "it may not begin yet"
    return claim


def test_as_many_begin_at_once_as_the_burst_says_then_one_after_each_interval(core: Core) -> None:
    core = rated(core, TEN_AN_HOUR)
    ids = [submit(core) for _ in range(6)]
    assert begun(core, *ids) == [True] * 3 + [False] * 3
    other = submit(core, "b")
    assert core.status(other) is Status.QUEUED
    for more in (4, 5):
        core.pass_time(INTERVAL)
        keep(core)
        keep(core)
        assert begun(core, *ids) == [True] * more + [False] * (6 - more)
    core.assert_consistent()


def test_a_rest_saves_no_more_than_the_burst(core: Core) -> None:
    core = rated(core, TEN_AN_HOUR)
    submit(core)
    core.pass_time(100 * INTERVAL)
    ids = [submit(core) for _ in range(5)]
    assert begun(core, *ids) == [True] * 3 + [False] * 2


def test_ends_give_nothing_back(core: Core) -> None:
    core = rated(core, {**TEN_AN_HOUR, "burst": 1})
    first, second = submit(core), submit(core)
    claim = start(core, first)
    assert claim.limit_keys == ["rate:a"]
    core.end(claim, Completed(1))
    core.limits.of_keys(claim.workspace_id, claim.limit_keys or ())
    keep(core)
    assert begun(core, second) == [False]
    core.pass_time(INTERVAL)
    keep(core)
    assert core.status(second) is Status.QUEUED
    core.assert_consistent()


def test_a_rate_and_a_limit_hold_together(core: Core) -> None:
    rate = {**TEN_AN_HOUR, "key": "'all'", "burst": 2}
    core = rated(core, rate, concurrency=[{"key": "variables.key", "max": 1}])
    first, same, other, third = submit(core), submit(core), submit(core, "b"), submit(core, "c")
    assert begun(core, first, same, other, third) == [True, False, True, False]
    core.pass_time(INTERVAL)
    keep(core)
    assert begun(core, same, third) == [False, True]
    core.pass_time(INTERVAL)
    claim = start(core, first)
    core.end(claim, Completed(1))
    keep(core)
    assert begun(core, same) == [True]
    core.assert_consistent()


@pytest.mark.failure("Q3")
def test_who_waits_for_a_slot_uses_nothing_of_the_rate(core: Core) -> None:
    rate = {**TEN_AN_HOUR, "key": "'all'", "burst": 3}
    core = rated(core, rate, concurrency=[{"key": "variables.key", "max": 1}])
    ids = [submit(core) for _ in range(5)]
    others = [submit(core, key) for key in ("b", "c")]
    assert begun(core, *ids) == [True] + [False] * 4
    assert begun(core, *others) == [True, True]


def test_several_that_give_at_once_never_let_more_begin(core: Core) -> None:
    core = rated(core, TEN_AN_HOUR)
    ids = core.pending_many([{"key": "a"}] * 3 + [{"key": "b"}] * 12)
    together([lambda: core.limits.some(LIMIT)] * 4)
    assert sum(begun(core, *ids[:3])) == 3
    assert sum(begun(core, *ids[3:])) == 3
    core.assert_consistent()


def test_why_says_when_the_next_may_begin(core: Core) -> None:
    core = rated(core, {**TEN_AN_HOUR, "burst": 1})
    first, _second, third = submit(core), submit(core), submit(core)
    reason = ExplainWaiting(core.database)(core.actor, third).reasons[0]
    assert (reason.code, reason.count) == (ReasonCode.LIMIT, 1)
    assert "'rate:a' lets 10 executions begin in 3600 s" in reason.text
    assert reason.until is not None
    seconds = (reason.until - core.get(first).created_at).total_seconds()
    assert INTERVAL - 1 < seconds < 2 * INTERVAL


def test_rates_of_which_nothing_begins_are_forgotten(core: Core) -> None:
    core = rated(core, TEN_AN_HOUR)
    submit(core)
    assert core.limits.forget_rates(10) == 0
    core.pass_time(2 * INTERVAL)
    assert core.limits.forget_rates(10) == 1
    assert core.count("execution_rates") == 0


def test_a_key_must_not_look_like_that_of_a_rate(core: Core) -> None:
    core = rated(core, concurrency=[{"key": "variables.key", "max": 1}])
    with pytest.raises(InputInvalidError, match="must not begin with rate:"):
        submit(core, "rate:a")
