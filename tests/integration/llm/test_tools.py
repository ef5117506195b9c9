"""Models use tools of MCP servers: what they get, what is recorded, what it can't do."""

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from celeriac.agents.llm.runner import LlmRunner
from celeriac.agents.llm.silence import SilenceLimits
from celeriac.agents.mcp.compat import NOT_MCP
from celeriac.agents.mcp.results import MAX_RESULT_CHARACTERS
from celeriac.agents.mcp.servers import HttpServer, ToolServers
from celeriac.agents.models import Prices, Provider, Providers
from celeriac.domain.agents import McpServer
from celeriac.domain.executions.events import EventType
from celeriac.kit.json_types import JsonObject, storable
from celeriac.kit.outbound import OutboundGuard
from tests.support.llm_jobs import TICKET_SCHEMA, llm_job, result_of
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
    assert set(names) <= {"PATH", "PYTHONPATH", "CELERIAC_CHILD", "LC_CTYPE"}


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
        ('tools__wait {"seconds": 60}', "The tool did not answer within 1 second."),
        ("tools__picture {}", "[image image/png, 8 characters of base64]"),
        ("garbage__good {}", "neither is this what it should be"),
        ("stubborn__good {}", "done"),
    ],
)
async def test_a_tool_that_fails_is_reported_to_the_model_and_fails_no_run(
    runner: LlmRunner, context: RecordingContext, call: str, expected: str
) -> None:
    name = call.partition("__")[0]

    outcome = await runner.run(
        llm_job(f"use {call}", **tools(name=name, timeout_seconds=1)), context
    )

    assert expected in result_of(outcome)


@pytest.mark.parametrize("code", [-32000, -32001, -32002, -32042, -32603, -32700, 0, 1, 429, -1])
async def test_an_error_of_any_code_is_reported_to_the_model(
    runner: LlmRunner, context: RecordingContext, code: int
) -> None:
    outcome = await runner.run(
        llm_job(f'use coded__good {{"code": {code}}}', **tools(name="coded")), context
    )

    assert "The tool failed: quota used up." in result_of(outcome)


@pytest.mark.parametrize(
    ("manner", "said"),
    [
        ("promised", "42\n[This is the tool's answer; the tool's output schema requires"),
        ("wrong", "40 and 2\n[This is the tool's answer; it doesn't fit the tool's output"),
        ("hollow", '{"sum":42}'),
        ("bare", f"42\n{NOT_MCP}"),
        ("blank", "[The tool's answer is empty.]"),
        ("listed", f'{{"text":"42"}}\n{NOT_MCP}\n[1]'),
        ("null", "null"),
    ],
)
async def test_a_tool_that_worked_is_not_reported_as_failed(
    runner: LlmRunner, context: RecordingContext, manner: str, said: str
) -> None:
    outcome = await runner.run(
        llm_job(f"use {manner}__good {{}}", **tools(name=manner, timeout_seconds=5)), context
    )

    assert result_of(outcome).startswith(said)
    (result,) = told(context, EventType.TOOL_RESULT)
    assert not result["failed"]


async def test_a_server_that_floods_its_stderr_does_not_slow_other_runs(
    runner: LlmRunner, context: RecordingContext
) -> None:
    """The loop that all runs share is never held for long, and the log has the beginning."""
    longest, watching = 0.0, True

    async def watch() -> None:
        nonlocal longest
        while watching:
            began = time.monotonic()
            await asyncio.sleep(0.01)
            longest = max(longest, time.monotonic() - began)

    watcher = asyncio.create_task(watch())
    outcome = await runner.run(llm_job("use noisy__good {}", **tools(name="noisy")), context)
    watching = False
    await watcher

    assert result_of(outcome) == "done"
    lines = [line["message"] for line in context.logged() if line["source"] == "mcp:noisy"]
    assert len(lines) < 10_000, "most of it is dropped"
    assert any("dropped" in line for line in lines), "and that is said"
    assert longest < 2, "a stall of the loop would hold up every other run"


async def test_a_tool_that_is_not_there_is_reported_to_the_model(
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
    assert "\\u0000" not in storable(context.messages)


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
    await runner.run(replace(job, attempt=2), context)

    lines = (context.workdir / "notes").read_text().splitlines()
    texts, keys = zip(*(line.split() for line in lines), strict=True)
    assert texts == ("a", "b", "a", "a", "b", "a")
    assert keys[:3] == keys[3:], "an attempt that starts again repeats the keys"
    assert len(set(keys[:3])) == 3, "calls that differ, or that are meant twice, have their own"
    assert all(key.startswith("e-1:desk.note:") for key in keys)


async def test_a_long_call_is_not_the_models_silence(
    context: RecordingContext, model_server: ModelServer, tool_servers: ToolServers
) -> None:
    runner = LlmRunner(
        Providers([Provider(name="test", base_url=model_server.base_url)]),
        Prices(),
        servers=tool_servers,
        patience=SilenceLimits(first=5.0, between=0.3),
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


async def test_a_model_that_may_label_its_execution_reads_what_is_refused(
    runner: LlmRunner, context: RecordingContext
) -> None:
    prompt = (
        'use label_execution {"labels": {"language": "en", "draft": "yes"}}'
        ' / label_execution {"labels": {"draft": null}} / label_execution {"labels": {"9": "x"}}'
    )
    result = result_of(await runner.run(llm_job(prompt, may_label=True), context))
    said = result.split("; ", 2)
    assert said[:2] == ['{"draft":"yes","language":"en"}', '{"language":"en"}']
    assert "letter" in said[2]
    assert "Unknown tool" in result_of(await runner.run(llm_job(prompt), context))
