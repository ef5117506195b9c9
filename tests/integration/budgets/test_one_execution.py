"""An execution's own budget, in the middle of its run."""

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from celeriac.domain.approvals import Answer
from celeriac.domain.budget_kinds import OnBudget
from celeriac.domain.budgets import Budget
from celeriac.domain.executions.model import SubmitRequest
from celeriac.domain.executions.options import RunOptions
from celeriac.domain.executions.states import Status, WaitingFor
from celeriac.domain.reports import ReportFormat
from celeriac.services.reports import ReportStore
from celeriac.settings import Settings
from tests.support import fleet_agents
from tests.support.catalog import make_task
from tests.support.model_server import Exchange
from tests.support.model_worker import ModelWorker, model_worker

CALL_TOKENS = 15
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def twice(exchange: Exchange) -> None:
    """Answer wrongly first, and rightly when told so: two calls."""
    first = len(exchange.received.body["messages"]) == 1
    exchange.answer(json.dumps({"n": "one" if first else 1}))


def limited(exchange: Exchange) -> None:
    """Answer as a model whose answer ends at the limit that it was given."""
    limit = exchange.received.body["max_tokens"]
    usage = {"prompt_tokens": 3, "completion_tokens": limit}
    exchange.complete("and so on", reason="length", usage=usage)


SCENES = {"twice": twice, "limited": limited}


@pytest.fixture
def worker(settings: Settings, tmp_path: Path) -> Iterator[ModelWorker]:
    modules = (fleet_agents.__name__,)
    with model_worker(settings, SCENES, home=tmp_path, agent_modules=modules) as made:
        yield made


def test_it_is_stopped_between_its_calls(worker: ModelWorker) -> None:
    task = worker.task("twice", output_schema=SCHEMA, budget={"max_tokens": CALL_TOKENS - 1})
    (execution,) = worker.submit(task, 1)

    worker.work()

    failed = worker.get(execution)
    assert (failed.status, failed.error_code) == (Status.FAILED, "budget_spent")
    assert "15 of 14 tokens" in str(failed.error_message)
    assert len(worker.server.received) == 1
    (own,) = worker.budgets.of_execution(worker.actor, execution)
    assert own.overshoot_tokens == 1, "no more than of the one call under way, and shown"
    made = ReportStore(worker.container.database)(worker.actor, execution, ReportFormat.MARKDOWN)
    assert "- **Overshoot**: 1 token beyond the execution's budget\n" in made.content.decode()
    assert failed.input_tokens + failed.output_tokens == CALL_TOKENS


def test_it_asks_and_goes_on_from_there(worker: ModelWorker) -> None:
    asking = Budget(max_tokens=CALL_TOKENS, on_budget=OnBudget.ASK)
    task = worker.task("twice", output_schema=SCHEMA)
    (execution,) = worker.submit(task, 1, RunOptions(budget=asking))
    worker.work()
    assert worker.get(execution).waiting_for is WaitingFor.BUDGET

    (question,) = worker.asking([execution])
    worker.answer(question, Answer(approved=True, value={"tokens": 200}))
    worker.work()

    done = worker.get(execution)
    assert (done.status, done.result) == (Status.COMPLETED, {"n": 1})
    (own,) = worker.budgets.of_execution(worker.actor, execution)
    assert (own.max_tokens, own.raised) == (CALL_TOKENS + 200, 1)
    assert own.spent_tokens == CALL_TOKENS * len(worker.server.received)


def warnings(worker: ModelWorker, execution: UUID) -> list[str]:
    """Return the messages of an execution's log."""
    query = "SELECT data ->> 'message' FROM events WHERE execution_id = :id AND type = 'log'"
    with worker.container.database.autocommit() as connection:
        return list(connection.execute(text(query), {"id": execution}).scalars())


@pytest.mark.parametrize("price", ["0", None])
def test_a_model_that_no_budget_of_money_holds_is_told_once(
    settings: Settings, tmp_path: Path, price: str | None
) -> None:
    prices = tmp_path / "prices.json"
    own = {} if price is None else {"test/model": {"input": price, "output": price}}
    prices.write_text(json.dumps(own))
    modules = (fleet_agents.__name__,)
    with model_worker(
        settings, SCENES, home=tmp_path, agent_modules=modules, prices_file=prices
    ) as worker:
        money = Budget(max_cost=Decimal(1))
        if price is None:
            task = make_task(worker.container.database, worker.actor, "spend")
            variables: dict[str, Any] = {"calls": 2, "tokens": 10}
        else:
            task, variables = worker.task("twice", output_schema=SCHEMA), {}
        request = SubmitRequest(task_id=task, options=RunOptions(budget=money), variables=variables)
        (execution,) = worker.container.submit.batch(
            worker.actor, request, [variables]
        ).execution_ids

        worker.work()

        done = worker.get(execution)
        assert (done.status, done.model_call_count) == (Status.COMPLETED, 2)
        (said,) = warnings(worker, execution)
        assert ("is 0, so no cost limit" in said) is (price is not None)
        assert ("is unknown, so its calls" in said) is (price is None)


@pytest.mark.parametrize("function", ["spend", "plain_spend"])
def test_a_function_is_stopped_once_it_told_of_too_much(worker: ModelWorker, function: str) -> None:
    task = make_task(worker.container.database, worker.actor, function)
    options = RunOptions(budget=Budget(max_tokens=25))
    request = SubmitRequest(task_id=task, options=options, variables={"calls": 100, "tokens": 10})
    (execution,) = worker.container.submit.batch(
        worker.actor, request, [request.variables]
    ).execution_ids

    worker.work()

    failed = worker.get(execution)
    assert (failed.status, failed.error_code) == (Status.FAILED, "budget_spent")
    assert failed.model_call_count == 3, "the call that went beyond is recorded, no other follows"
    (own,) = worker.budgets.of_execution(worker.actor, execution)
    assert (own.spent_tokens, own.overshoot_tokens) == (30, 5)


def test_a_call_that_can_not_fit_is_not_made(worker: ModelWorker) -> None:
    task = worker.task("limited " + "word " * 20, budget={"max_tokens": 20})
    (execution,) = worker.submit(task, 1)

    worker.work()

    failed = worker.get(execution)
    assert (failed.status, failed.error_code) == (Status.FAILED, "budget_spent")
    assert failed.error_message == (
        "The execution's budget has no room for the next model call: it needs at least 26 tokens, "
        "20 are left (spent: 0 of 20 tokens)."
    )
    assert failed.error_details is not None
    assert failed.error_details["needed_tokens"] == 26
    assert worker.server.received == []


def test_one_that_can_not_fit_asks_where_the_budget_does(worker: ModelWorker) -> None:
    asking = Budget(max_tokens=20, on_budget=OnBudget.ASK)
    (execution,) = worker.submit(
        worker.task("limited " + "word " * 20), 1, RunOptions(budget=asking)
    )
    worker.work()
    assert worker.get(execution).waiting_for is WaitingFor.BUDGET
    assert worker.server.received == []

    (question,) = worker.asking([execution])
    worker.answer(question, Answer(approved=True, value={"tokens": 100}))
    worker.work()

    assert worker.get(execution).status is Status.COMPLETED


def test_an_answer_is_clipped_to_what_is_left(worker: ModelWorker) -> None:
    task = worker.task("limited", answer_limit=500, budget={"max_tokens": 60})
    (execution,) = worker.submit(task, 1, RunOptions(record=True))

    worker.work()

    done = worker.get(execution)
    assert done.status is Status.COMPLETED
    assert done.truncated
    (asked,) = worker.server.received
    assert asked.body["max_tokens"] == 60 - 8 - 3
    (own,) = worker.budgets.of_execution(worker.actor, execution)
    assert (own.spent_tokens, own.overshoot_tokens) == (52, 0)
    assert warnings(worker, execution) == [
        "The answer was cut off at 49 tokens: no more is left of the execution's budget."
    ]

    (replay,) = worker.submit(task, 1, RunOptions(cassette_id=execution))
    worker.work()

    assert worker.get(replay).status is Status.COMPLETED, worker.get(replay).error_message
    assert len(worker.server.received) == 1
