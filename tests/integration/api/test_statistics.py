"""Statistics over HTTP: of the workspace, and for administrators of all."""

import pytest

from celeriac.domain.executions.model import Completed, Failed, Failure
from celeriac.services.operations.rollups import Rollups
from celeriac.wiring.core import CoreServices
from tests.support.api import EXECUTE, Asker, assert_problem
from tests.support.working import claim, finish

STATS = "/api/v1/stats"
FAILED = Failed(Failure("agent_failed", "no such lead", {"type": "LookupError", "attempt": 1}))


@pytest.mark.requirement("B12")
def test_statistics_say_what_ended_and_how_long_it_took(
    ada: Asker, admin: Asker, container: CoreServices
) -> None:
    for outcome in (Completed({"summary": "a"}), FAILED):
        accepted = ada.post(EXECUTE, json={"variables": {"text": "a"}}).json()
        finish(container, claim(container, accepted["execution_id"]), outcome)
    assert ada.get(STATS).json()["behind_seconds"] > 0
    Rollups(container.database).fold(100)

    found = ada.get(STATS, params={"window_seconds": 900}).json()

    assert (found["completed"], found["failed"], found["success_rate"]) == (1, 1, 0.5)
    assert found["completed_per_minute"] > 0
    assert found["run"]["p50"] <= found["run"]["p99"]
    assert found["all_time"] == {"completed": 1, "failed": 1, "cancelled": 0}
    assert found["behind_seconds"] is None
    (task,), (queue,) = found["tasks"], found["queues"]
    assert (task["task"], task["workspace"], task["failed"]) == ("summarise", "ada", 1)
    assert (queue["queue"], queue["completed"]) == ("task_execution", 1)
    assert admin.get(STATS).json()["completed"] == 0, "it is of another workspace"
    everywhere = {"all_workspaces": "true", "top": 0}
    assert admin.get(STATS, params=everywhere).json()["failed"] == 1
    assert_problem(ada.get(STATS, params=everywhere), 403, "forbidden")


@pytest.mark.parametrize(
    ("name", "value"), [("window_seconds", 59), ("window_seconds", 99**9), ("top", 101)]
)
def test_wrong_values_are_named(ada: Asker, name: str, value: int) -> None:
    problem = assert_problem(ada.get(STATS, params={name: value}), 422, "invalid_input")
    assert name in str(problem)
