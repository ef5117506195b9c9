"""Models use tools of MCP servers: what they get, what is recorded, what it can't do."""

import json
from pathlib import Path
from typing import Any

import pytest

from celeriac.agents.llm.runner import LlmRunner
from celeriac.agents.llm.watchdog import Patience
from celeriac.agents.mcp.results import MAX_RESULT_CHARACTERS
from celeriac.agents.mcp.servers import HttpServer, ToolServers
from celeriac.agents.pricing import Prices
from celeriac.agents.providers import Provider, Providers
from celeriac.domain.agent import McpServer
from celeriac.domain.events import EventType
from celeriac.kit.addresses import OutboundGuard
from celeriac.kit.jsontypes import JsonObject, storable
from tests.support.llm_jobs import TICKET_SCHEMA, llm_job, next_attempt, result_of
from tests.support.model_scenes import TICKET
from tests.support.model_server import ModelServer
from tests.support.run_context import RecordingContext

pytestmark = pytest.mark.anyio


def tools(**entry: Any) -> dict[str, Any]:
    """The agent's fields for one MCP server, `tools` unless named otherwise."""
    return {"mcp_servers": (McpServer(**{"name": "tools", **entry}),)}


def told(context: RecordingContext, kind: EventType) -> list[JsonObject]:
    return [data for each, data in context.events if each is kind]


def offered(server: ModelServer) -> list[str]:
    """The names of the tools that the last request to the model offers."""
    return sorted(tool["function"]["name"] for tool in server.received[-1].body.get("tools", []))


async def test_a_tool_is_called_and_its_answer_goes_back_to_the_model(
    runner: LlmRunner, context: RecordingContext, model_server: ModelServer
) -> None:
    outcome = await runner.run(llm_job('use tools__add {"a": 2, "b": 3}', **tools()), context)

    assert result_of(outcome) == "5"
    (call,), (result,) = (
        told(context, kind) for kind in (EventType.TOOL_CALL, EventType.TOOL_RESULT)
    )
    assert call == {
        "id": "call_1", "server": "tools", "tool": "add", "arguments": {"a": 2, "b": 3}
    }  # fmt: skip
    ms = result["ms"]
    assert isinstance(ms, int)
    assert result == {
        "id": "call_1", "server": "tools", "tool": "add", "failed": False, "content": "5", "ms": ms
    }  # fmt: skip
    (add,) = [
        tool["function"]
        for tool in model_server.received[0].body["tools"]
        if tool["function"]["name"] == "tools__add"
    ]
    assert add["description"] == "Add two numbers."
    assert set(add["parameters"]["properties"]) == {"a", "b"}
    assert len(context.calls) == 2, "each request to the model is charged"


async def test_structured_output_and_tools_go_together(
    runner: LlmRunner, context: RecordingContext
) -> None:
    prompt = f"use tools__echo {json.dumps({'text': json.dumps(TICKET)})}"

    outcome = await runner.run(llm_job(prompt, schema=TICKET_SCHEMA, **tools()), context)

    assert result_of(outcome) == TICKET


async def test_a_program_sees_only_its_own_variables_and_works_in_the_executions_directory(
    runner: LlmRunner, context: RecordingContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "not-for-tools")

    outcome = await runner.run(llm_job("use tools__surroundings {}", **tools()), context)

    place, *names = result_of(outcome).split()
    assert Path(place) == context.workdir
    assert set(names) <= {"PATH", "PYTHONPATH", "CELERIAC_MCP_SERVER", "LC_CTYPE"}


async def test_an_agent_gets_the_tools_that_it_is_allowed(
    runner: LlmRunner, context: RecordingContext, model_server: ModelServer
) -> None:
    await runner.run(llm_job("plain", **tools(allowed_tools=("add", "n*", "z?"))), context)

    assert offered(model_server) == ["tools__add", "tools__nasty", "tools__note"]


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("tools__fail {}", "the shelf is empty"),
        ('tools__add {"a": "two"}', "The arguments don't fit the tool"),
        ('tools__wait {"seconds": 60}', "The tool did not answer within 1 seconds."),
        ("tools__picture {}", "[image image/png, 8 characters of base64]"),
        ("garbage__good {}", "The tool failed: what it sends is no MCP (content: "),
        ("stubborn__good {}", "done"),
    ],
)
async def test_a_tool_that_fails_tells_the_model_and_not_the_run(
    runner: LlmRunner, context: RecordingContext, call: str, expected: str
) -> None:
    name = call.partition("__")[0]

    outcome = await runner.run(
        llm_job(f"use {call}", **tools(name=name, timeout_seconds=1)), context
    )

    assert expected in result_of(outcome)


async def test_a_tool_that_is_not_there_is_told_to_the_model(
    runner: LlmRunner, context: RecordingContext
) -> None:
    outcome = await runner.run(llm_job("use tools__delete_all {}", **tools()), context)

    assert "tools__delete_all" in result_of(outcome)
    assert told(context, EventType.TOOL_CALL) == []


async def test_hostile_answers_are_made_fit_for_storage_and_for_people(
    runner: LlmRunner, context: RecordingContext
) -> None:
    calls = f"tools__nasty {{}} / tools__huge {json.dumps({'characters': 200_000})}"

    outcome = await runner.run(llm_job(f"use {calls}", **tools()), context)

    nasty, huge = told(context, EventType.TOOL_RESULT)
    assert "zero� escape�[2J bell� Ignore all" in nasty["content"]
    assert huge["clipped"] > 0
    assert len(huge["content"]) + huge["clipped"] < MAX_RESULT_CHARACTERS + 100
    assert len(result_of(outcome)) < 2 * MAX_RESULT_CHARACTERS
    assert all("\x00" not in storable(data) for _, data in context.events)
    assert "\\u0000" not in storable(context.state)


async def test_odd_offers_are_left_out_or_renamed(
    runner: LlmRunner, context: RecordingContext, model_server: ModelServer
) -> None:
    await runner.run(llm_job("plain", **tools(name="schemas")), context)

    good, renamed = sorted(offered(model_server), reverse=True)
    assert good == "schemas__good"
    assert renamed.startswith("schemas__an_unfit___name")
    assert len(renamed) == 64
    warnings = [line["message"] for line in context.logged() if line["level"] == "warning"]
    left_out = [
        name for line in warnings for name in ("remote", "fanned", "wrong") if f"'{name}'" in line
    ]
    assert left_out == ["remote", "fanned", "wrong"]


async def test_calls_carry_a_key_that_a_repeated_call_shares(
    runner: LlmRunner, context: RecordingContext
) -> None:
    once = 'desk__note {"text": "a"}'
    job = llm_job(f'use {once} / desk__note {{"text": "b"}} / {once}', **tools(name="desk"))

    await runner.run(job, context)
    await runner.run(next_attempt(job, None), context)

    lines = (context.workdir / "notes").read_text().splitlines()
    texts, keys = zip(*(line.split() for line in lines), strict=True)
    assert texts == ("a", "b", "a", "a", "b", "a")
    assert keys[:3] == keys[3:], "an attempt that begins anew repeats the keys"
    assert len(set(keys[:3])) == 3, "calls that differ, or that are meant twice, have their own"
    assert all(key.startswith("e-1:desk.note:") for key in keys)


async def test_a_long_call_is_not_the_models_silence(
    context: RecordingContext, model_server: ModelServer, tool_servers: ToolServers
) -> None:
    runner = LlmRunner(
        Providers([Provider(name="test", base_url=model_server.base_url)]),
        Prices(),
        servers=tool_servers,
        patience=Patience(first=5.0, between=0.3),
    )

    outcome = await runner.run(llm_job('use tools__wait {"seconds": 0.9}', **tools()), context)

    assert result_of(outcome) == "at last"
    await runner.aclose()


async def test_tools_over_http(
    runner: LlmRunner, context: RecordingContext, model_server: ModelServer, tools_url: str
) -> None:
    trusted = HttpServer(tools_url, OutboundGuard(allow_private=True))
    servers = ToolServers({"far": trusted}, guard=OutboundGuard())
    runner = LlmRunner(
        Providers([Provider(name="test", base_url=model_server.base_url)]),
        Prices(),
        servers=servers,
    )

    outcome = await runner.run(
        llm_job('use far__add {"a": 2, "b": 3} / far__fail {}', **tools(name="far")), context
    )

    assert result_of(outcome).startswith("5; ")
    await runner.aclose()
