"""Groups of failures over HTTP and with the client: lists, one group, changes, and the filter."""

from datetime import datetime
from typing import Any

import pytest

from celeriac.domain.executions.model import Failed, Failure
from celeriac.services.operations.rollups import Rollups
from celeriac.wiring.core import CoreServices
from tests.support.api import EXECUTE, Asker, assert_problem
from tests.support.working import claim, finish

GROUPS = "/api/v1/failure-groups"
EXECUTIONS = "/api/v1/task-executions"


def fail(asker: Asker, container: CoreServices, message: str, kind: str = "LookupError") -> str:
    """Return the id of an execution that has failed, and is counted."""
    accepted = asker.post(EXECUTE, json={"variables": {"text": "a"}}).json()
    failure = Failure("agent_failed", message, {"type": kind, "attempt": 1})
    finish(container, claim(container, accepted["execution_id"]), Failed(failure))
    Rollups(container.database).fold(100)
    return str(accepted["execution_id"])


def listed(asker: Asker, **params: Any) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = asker.get(GROUPS, params=params).json()["items"]
    return items


@pytest.mark.requirement("F19")
def test_failures_are_grouped_resolved_and_regress(ada: Asker, container: CoreServices) -> None:
    first, second = (fail(ada, container, f"no lead {n}") for n in (1, 2))
    other = fail(ada, container, "no lead 1", "KeyError")
    lone, both = listed(ada)
    assert (both["title"], both["failures"], both["state"]) == ("LookupError: no lead 2", 2, "new")
    assert (both["task_name"], both["first_execution_id"]) == ("summarise", first)
    assert lone["last_execution_id"] == other
    details = ada.get(both["_links"]["self"]).json()
    assert [each["id"] for each in details["executions"]] == [second, first]
    assert not {"variables", "result", "error_details"} & details["executions"][0].keys()
    filtered = ada.get(both["_links"]["executions"]).json()["items"]
    assert [each["id"] for each in filtered] == [second, first]
    counted = ada.post(
        f"{EXECUTIONS}/bulk/retry",
        params={"dry_run": True},
        json={"failure_group": both["id"], "limit": 10},
    )
    assert counted.json()["remaining"] == 2

    changed = ada.patch(
        both["_links"]["self"], json={"state": "resolved", "note": "Fixed.", "version": 1}
    ).json()
    assert (changed["state"], changed["note"], changed["version"]) == ("resolved", "Fixed.", 2)
    assert datetime.fromisoformat(changed["resolved_at"]) > datetime.fromisoformat(
        both["last_seen_at"]
    )
    assert [each["id"] for each in listed(ada, state="resolved")] == [both["id"]]
    assert listed(ada, state=["new", "known"]) == [lone]
    fail(ada, container, "no lead 3")
    assert [each["id"] for each in listed(ada, state=["regressed", "new"])] == [
        both["id"],
        lone["id"],
    ]


def test_wrong_values_are_named(ada: Asker, admin: Asker, container: CoreServices) -> None:
    fail(ada, container, "no lead 1")
    (group,) = listed(ada)
    place = f"{GROUPS}/{group['id']}"
    for body, field in (
        ({"state": "new"}, "state"),
        ({"state": "mended"}, "state"),
        ({"note": "x" * 2_001}, "note"),
        ({"version": 0}, "version"),
        ({"title": "x"}, "title"),
    ):
        problem = assert_problem(ada.patch(place, json=body), 422, "invalid_input")
        assert field in str(problem)
    assert_problem(ada.patch(place, json={"state": "known", "version": 7}), 409, "conflict")
    assert_problem(ada.get(GROUPS, params={"state": "open"}), 422, "invalid_input")
    assert_problem(ada.get(GROUPS, params={"cursor": "x"}), 422, "cursor_invalid")
    wanted = {"failure_group": group["id"]}
    assert_problem(admin.get(EXECUTIONS, params=wanted), 404, "not_found")
    assert listed(admin) == []
