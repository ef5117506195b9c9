"""Budgets and usage over HTTP."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from celeriac.client import Client
from celeriac.domain.accounts import Role
from celeriac.domain.usage import ModelCall
from celeriac.wiring.core import CoreServices
from tests.support.api import EXECUTE, Asker, assert_problem
from tests.support.working import claim, write_events

BUDGETS = "/api/v1/budgets"
DAILY: dict[str, Any] = {"task": "summarise", "period": "day", "max_cost": "0.5"}
CALLS = [
    ModelCall("openai", "small", 100, 20, cached_tokens=50, latency_ms=7, finish_reason="stop",
              cost=Decimal("0.25")),
    ModelCall("openai", "large", 10, 5, cost=Decimal("0.5")),
    ModelCall("own", "model", 1, 1),
]  # fmt: skip


def spend(asker: Asker, container: CoreServices, variables: str = "a") -> str:
    """Run an execution that makes the three calls; return its path."""
    accepted = asker.post(EXECUTE, json={"variables": {"text": variables}}).json()
    write_events(container, claim(container, accepted["execution_id"]), calls=CALLS)
    return str(accepted["_links"]["self"])


@pytest.mark.requirement("E5")
def test_each_model_call_is_listed_and_added_up(ada: Asker, container: CoreServices) -> None:
    path = spend(ada, container)
    spend(ada, container)

    links = ada.get(path).json()["_links"]
    calls = ada.get(links["model_calls"]).json()["items"]
    assert [call["model"] for call in calls] == ["small", "large", "model"], "the oldest first"
    first = calls[0]
    assert (first["input_tokens"], first["output_tokens"], first["cached_tokens"]) == (100, 20, 50)
    assert (first["finish_reason"], Decimal(first["cost"])) == ("stop", Decimal("0.25"))
    assert calls[2]["cost"] is None

    (day,) = ada.get("/api/v1/usage").json()["items"]
    assert day["key"] == datetime.now(UTC).date().isoformat()
    assert (day["calls"], day["unpriced_calls"], day["input_tokens"]) == (6, 2, 222)
    assert Decimal(day["cost"]) == Decimal("1.5")
    models = ada.get("/api/v1/usage", params={"by": "model"}).json()["items"]
    assert [each["key"] for each in models] == ["openai/large", "openai/small", "own/model"]
    (task,) = ada.get("/api/v1/usage", params={"by": "task"}).json()["items"]
    assert (task["name"], task["calls"]) == ("summarise", 6)


def test_model_calls_come_in_pages(ada: Asker, container: CoreServices) -> None:
    path = f"{spend(ada, container)}/model-calls"
    first = ada.get(path, params={"limit": 2}).json()
    rest = ada.get(path, params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [each["model"] for each in first["items"] + rest["items"]] == ["small", "large", "model"]
    assert rest["next_cursor"] is None


def test_usage_is_that_of_the_workspace(
    ada: Asker, admin: Asker, person: Callable[..., Asker], container: CoreServices
) -> None:
    path = spend(ada, container)
    for other in (person("bob"), admin):
        assert other.get("/api/v1/usage").json()["items"] == []
        assert_problem(other.get(f"{path}/model-calls"), 404, "not_found")
        assert_problem(other.get(f"{path}/budgets"), 404, "not_found")
    (user,) = ada.get("/api/v1/usage", params={"by": "user"}).json()["items"]
    assert (user["name"], user["calls"]) == ("ada", 3)
    nobody = {"by": "user", "user_id": str(uuid4())}
    assert ada.get("/api/v1/usage", params=nobody).json()["items"] == []


def test_days_outside_the_question_are_left_out(ada: Asker, container: CoreServices) -> None:
    spend(ada, container)
    today = datetime.now(UTC).date()
    before = {"until": str(today - timedelta(days=2)), "since": str(today - timedelta(days=9))}
    assert ada.get("/api/v1/usage", params=before).json()["items"] == []
    turned = {"since": before["until"], "until": before["since"]}
    problem = assert_problem(ada.get("/api/v1/usage", params=turned), 422, "invalid_input")
    assert problem["field"] == "since"


def test_a_budget_is_set_shown_changed_and_deleted(ada: Asker, container: CoreServices) -> None:
    path = spend(ada, container)

    made = ada.post(BUDGETS, json=DAILY).json()
    state = made["state"]
    assert (made["subject_name"], made["on_budget"], made["max_tokens"]) == (
        "summarise", "stop", None,
    )  # fmt: skip
    assert Decimal(state["spent_cost"]) == Decimal("0.75"), "what was used today counts"
    assert state["spent_tokens"] == 137
    assert Decimal(state["overshoot_cost"]) == Decimal("0.25")

    changed = ada.post(BUDGETS, json=DAILY | {"max_cost": 2, "on_budget": "ask"}).json()
    assert changed["id"] == made["id"], "there is one for each period"
    assert Decimal(changed["state"]["overshoot_cost"]) == 0
    assert ada.get(changed["_links"]["self"]).json() == changed
    listed = ada.get(BUDGETS, params={"task": "summarise"}).json()["items"]
    assert listed == [changed]
    (held,) = ada.get(f"{path}/budgets").json()["items"]
    assert held == changed["state"]

    assert ada.delete(changed["_links"]["self"]).status_code == 204
    assert_problem(ada.get(changed["_links"]["self"]), 404, "not_found")
    assert ada.get(f"{path}/budgets").json()["items"] == []


def test_an_executions_own_budget_is_shown_with_it(ada: Asker) -> None:
    body = {"variables": {"text": "a"}, "budget": {"max_tokens": 500}}
    accepted = ada.post(EXECUTE, json=body).json()
    (own,) = ada.get(f"{accepted['_links']['self']}/budgets").json()["items"]
    assert (own["scope"], own["window"], own["max_tokens"]) == ("execution", "run", 500)


def test_budgets_are_set_by_those_who_may(
    ada: Asker, admin: Asker, person: Callable[..., Asker]
) -> None:
    me = ada.get("/api/v1/me").json()["id"]
    mine = {"user_id": me, "period": "month", "max_tokens": 1000}
    assert_problem(ada.post(BUDGETS, json=mine), 403, "forbidden")
    made = admin.post(BUDGETS, json=mine).json()
    assert ada.get(BUDGETS).json()["items"] == [made], "one sees what one is held to"
    assert_problem(ada.delete(made["_links"]["self"]), 403, "forbidden")

    bob, viewer = person("bob"), person("vera", Role.VIEWER)
    assert_problem(viewer.post(BUDGETS, json=DAILY), 403, "forbidden")
    task = ada.get("/api/v1/tasks/summarise").json()["id"]
    assert_problem(bob.post(BUDGETS, json=DAILY | {"task": task}), 404, "not_found")
    assert_problem(bob.get(made["_links"]["self"]), 404, "not_found")
    assert bob.get(BUDGETS).json()["items"] == []
    assert admin.delete(made["_links"]["self"]).status_code == 204


def test_what_is_no_budget_is_refused(ada: Asker) -> None:
    for body in (
        {"period": "day", "max_tokens": 1},
        DAILY | {"user_id": str(uuid4())},
        {"task": "summarise", "period": "day"},
        DAILY | {"period": "year"},
        DAILY | {"max_cost": -1},
        DAILY | {"max_tokens": 0},
        DAILY | {"max_cost": "much"},
    ):
        assert_problem(ada.post(BUDGETS, json=body), 422, "invalid_input")
    days = ada.get("/api/v1/usage", params={"since": "0"})
    assert assert_problem(days, 422, "invalid_input")["field"] == "since"


def test_the_client_has_them_all(client: Client, container: CoreServices) -> None:
    accepted = client.executions.execute("summarise", {"text": "a"})
    write_events(container, claim(container, accepted.execution_id), calls=CALLS)

    made = client.budgets.set("month", task="summarise", max_cost="1.50", on_budget="ask")
    assert client.budgets.get(made.id) == made
    assert list(client.budgets.list(task="summarise")) == [made]
    assert client.budgets.of_execution(accepted.execution_id).items == [made.state]
    assert [call.model for call in client.usage.calls(accepted.execution_id)] == [
        "small", "large", "model",
    ]  # fmt: skip
    assert client.usage.totals("model", task="summarise").items[0].cost == Decimal("0.5")
    client.budgets.delete(made.id)
    assert list(client.budgets.list()) == []
