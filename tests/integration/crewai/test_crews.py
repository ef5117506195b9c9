"""Graphs become real crews: their order, what tasks hand on, what is told, counted and charged."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest

from celeriac.agents.crewai.runner import CrewaiRunner
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.model import Completed
from celeriac.domain.tasks import Limits
from tests.support.crew_scenes import TICKET
from tests.support.crews import agent, crew, crew_job, task
from tests.support.llm_jobs import TICKET_SCHEMA
from tests.support.model_scenes import KEY
from tests.support.model_server import ModelServer
from tests.support.run_context import LateContext, RecordingContext

pytestmark = pytest.mark.anyio


def custom(context: RecordingContext, name: str) -> list[Mapping[str, Any]]:
    events = [data for kind, data in context.events if kind is EventType.CUSTOM]
    return [data["data"] for data in events if data["name"] == name]


def of_type(context: RecordingContext, kind: EventType) -> list[Mapping[str, Any]]:
    return [data for each, data in context.events if each is kind]


@pytest.mark.requirement("C2", "C3", "C6")
async def test_a_sequential_crew_hands_on_its_outputs_and_tells_all(
    runner: CrewaiRunner, context: RecordingContext, model_server: ModelServer
) -> None:
    graph = crew(
        task("first", "plan", description="plan for {{ topic }} in {braces}"),
        task("second", "draft", "first", agent="writer"),
    )

    outcome = await runner.run(crew_job(graph, topic="roots"), context)

    assert outcome.result == "By the plan: Begin, then end."
    first, second = model_server.received
    assert "plan for roots in {braces}" in first.prompt, "only our templates are filled in"
    assert "Begin, then end." in second.prompt, "the edge carries the first task's output"
    assert first.headers["authorization"] == f"Bearer {KEY}"
    assert context.steps == [
        (0, 2, "first: planner"),
        (1, 2, ""),
        (1, 2, "second: writer"),
        (2, 2, "done"),
    ]
    (started,) = custom(context, "crew_started")
    assert started["agents"] == {"planner": "test/model", "writer": "test/model"}
    done = custom(context, "crew_task_completed")
    assert [(each["task"], each["agent"], each["output"]) for each in done] == [
        ("first", "planner", "Begin, then end."),
        ("second", "writer", "By the plan: Begin, then end."),
    ]
    said = of_type(context, EventType.MESSAGE)
    assert [(each["role"], each["node"]) for each in said] == [
        ("user", "tasks.first"),
        ("assistant", "tasks.first"),
        ("user", "tasks.second"),
        ("assistant", "tasks.second"),
    ]
    used = [(call.input_tokens, call.output_tokens, call.cached_tokens) for call in context.calls]
    assert used == [(100, 10, 40), (200, 20, 0)], "each call once, as the provider counted it"
    assert [call.cost for call in context.calls] == [Decimal("0.00026"), Decimal("0.0006")]
    assert [call.model for call in context.planned] == ["model", "model"], "leave was asked for"
    assert not (context.workdir / ".crewai").exists(), "CrewAI's own files are gone"


@pytest.mark.requirement("C2", "C3")
async def test_a_hierarchical_crew_has_its_manager_delegate(
    runner: CrewaiRunner, context: RecordingContext, model_server: ModelServer
) -> None:
    graph = crew(task("lead", "manage"), process="hierarchical", manager_model="test/boss")

    outcome = await runner.run(crew_job(graph), context)

    assert outcome.result == "It came back: Begin, then end."
    assert [each.body["model"] for each in model_server.received] == ["boss", "model", "boss"]
    assert [note for _, _, note in context.steps] == [
        "lead: manager",
        "lead: planner",
        "lead: manager",
        "done",
    ]
    (call,) = of_type(context, EventType.TOOL_CALL)
    (result,) = of_type(context, EventType.TOOL_RESULT)
    assert call["tool"] == "delegate_work_to_coworker"
    assert (call["arguments"]["coworker"], call["agent"]) == ("Planner", "manager")
    assert (result["id"], result["content"]) == (call["id"], "Begin, then end.")
    used = [(each.model, each.input_tokens, each.output_tokens) for each in context.calls]
    assert used == [("boss", 20, 2), ("model", 100, 10), ("boss", 30, 3)]


@pytest.mark.requirement("C2")
async def test_an_agent_of_the_crew_may_manage_it_and_choose_who_works(
    runner: CrewaiRunner, context: RecordingContext, model_server: ModelServer
) -> None:
    graph = {
        "agents": [agent("chief", temperature=0.5), agent("planner", max_output_tokens=33)],
        "tasks": [task("lead", "manage", agent=None)],
        "process": "hierarchical",
        "manager_agent": "chief",
    }

    outcome = await runner.run(crew_job(graph), context)

    assert outcome.result == "It came back: Begin, then end."
    assert [note for _, _, note in context.steps[:3]] == [
        "lead: chief",
        "lead: planner",
        "lead: chief",
    ]
    asked = [(each.body.get("temperature"), each.body.get("max_tokens"))
             for each in model_server.received]  # fmt: skip
    assert asked == [(0.5, None), (None, 33), (0.5, None)]


@pytest.mark.requirement("C2")
async def test_an_output_that_must_fit_a_schema_is_sent_back_once(
    runner: CrewaiRunner, context: RecordingContext
) -> None:
    graph = crew(task("only", "structured"))

    outcome = await runner.run(crew_job(graph, schema=TICKET_SCHEMA), context)

    assert outcome.result == TICKET
    assert len(context.calls) == 2


@pytest.mark.requirement("C1", "C2")
async def test_an_agent_uses_tools_of_a_configured_mcp_server(
    runner: CrewaiRunner, context: RecordingContext
) -> None:
    graph = {"agents": [agent("planner", tools=["tools"])], "tasks": [task("sum", "toolbox")]}

    outcome = await runner.run(crew_job(graph), context)

    assert outcome.result == "The tool said: 5"
    (call,) = of_type(context, EventType.TOOL_CALL)
    assert call["arguments"] == {"a": 2, "b": 3}


async def test_a_result_that_the_token_limit_has_cut_off_says_so(
    runner: CrewaiRunner, context: RecordingContext
) -> None:
    outcome = await runner.run(crew_job(crew(task("only", "cut"))), context)

    assert (outcome.result, outcome.truncated) == ("Once upon a", True)
    assert context.calls[0].finish_reason == "length"


async def test_a_budgets_question_outlives_the_limits_of_a_crew(
    runner: CrewaiRunner, context: RecordingContext
) -> None:
    """A crew waits in its place for a larger budget; its time stands still meanwhile."""
    limits = Limits(soft_seconds=30, hard_seconds=31)
    late = LateContext(context.workdir, limits)

    outcome = await late.run(runner, crew_job(crew(task("first", "plan")), limits=limits))

    assert isinstance(outcome, Completed)
    assert not late.time_limits.soft_passed
    assert len(late.calls) == 1


async def test_an_agent_that_may_label_its_execution_reads_what_is_refused(
    runner: CrewaiRunner, context: RecordingContext
) -> None:
    outcome = await runner.run(crew_job(crew(task("only", "label")), may_label=True), context)

    labelled, refused = outcome.result.split("; ", 1)
    assert labelled == '{"language": "en"}'
    assert refused.startswith("Nothing was changed: ")
    assert [each["tool"] for each in of_type(context, EventType.TOOL_CALL)] == [
        "label_execution", "label_execution",
    ]  # fmt: skip
