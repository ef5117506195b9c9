"""What a run of Claude Code returns, what it tells on the way, and what it is charged."""

from decimal import Decimal
from pathlib import Path

import pytest

from celeriac.agents.claude.runner import ClaudeRunner
from celeriac.domain.errors import PermanentError
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.model import Completed
from celeriac.domain.usage import ModelCall
from celeriac.kit.json_types import JsonObject, loads
from tests.support.anthropic_scenes import KEY
from tests.support.anthropic_server import AnthropicServer
from tests.support.claude_jobs import MODEL, claude_job
from tests.support.run_context import RecordingContext

pytestmark = [pytest.mark.anyio, pytest.mark.requirement("A12")]


def told(context: RecordingContext, kind: EventType) -> list[JsonObject]:
    return [data for each, data in context.events if each is kind]


async def test_a_text_is_streamed_logged_and_metered(
    runner: ClaudeRunner, context: RecordingContext, anthropic: AnthropicServer
) -> None:
    job = claude_job("[plain] Say hello.", instructions="Be brief.")

    outcome = await runner.run(job, context)

    assert outcome == Completed("Hello there.")
    assert "".join(delta["text"] for delta in context.deltas) == "Hello there."
    assert told(context, EventType.MESSAGE) == [
        {"role": "user", "content": "[plain] Say hello."},
        {"role": "assistant", "content": "Hello there."},
    ]
    (call,) = context.calls
    latency = call.latency_ms
    assert call == ModelCall(
        provider="anthropic",
        model=MODEL,
        input_tokens=148,
        output_tokens=20,
        cached_tokens=40,
        latency_ms=latency,
        finish_reason="end_turn",
        cost=Decimal("0.000452"),
    )
    assert context.external_id is not None
    (planned,) = context.planned
    assert planned.provider == "anthropic"
    assert planned.input_tokens > 0
    assert planned.output_tokens > 0
    (request,) = anthropic.received
    assert request.headers["x-api-key"] == KEY
    assert "Be brief." in str(request.body["system"])


async def test_tools_work_in_the_directory_of_the_session_and_are_recorded(
    runner: ClaudeRunner, context: RecordingContext, tmp_path: Path
) -> None:
    job = claude_job("[work] Note the answer.", allowed_tools=("Read", "Write"))

    outcome = await runner.run(job, context)

    assert isinstance(outcome, Completed)
    assert "forty-two" in outcome.result
    note = tmp_path / "sessions" / str(context.session_id) / "work" / "note.txt"
    assert note.read_text() == "forty-two\n"
    calls = told(context, EventType.TOOL_CALL)
    assert [call["tool"] for call in calls] == ["Write", "Read"]
    assert calls[0]["arguments"] == {"file_path": "note.txt", "content": "forty-two\n"}
    results = told(context, EventType.TOOL_RESULT)
    assert [(each["id"], each["tool"], each["failed"]) for each in results] == [
        (call["id"], call["tool"], False) for call in calls
    ]
    assert all(each["ms"] >= 0 for each in results)
    thoughts = [each for each in told(context, EventType.MESSAGE) if each.get("thinking")]
    assert thoughts == [{"role": "assistant", "thinking": True, "content": "A file."}]
    assert {"thinking": "A file."} in context.deltas
    assert len(context.calls) == 3


async def test_tools_see_neither_the_key_nor_what_the_worker_has(
    runner: ClaudeRunner, context: RecordingContext, tmp_path: Path
) -> None:
    command = "env; tr '\\0' '\\n' < /proc/$PPID/environ; tr '\\0' '\\n' < /proc/$PPID/cmdline"
    job = claude_job(
        f"[shell] Run |{command}| now.", allowed_tools=("Bash",), environment=("SHOP_TOKEN",)
    )

    outcome = await runner.run(job, context)

    assert isinstance(outcome, Completed)
    home = tmp_path / "sessions" / str(context.session_id) / "config"
    assert f"HOME={home}" in outcome.result
    assert "SHOP_TOKEN=for the shop" in outcome.result
    for secret in (KEY, "DATABASE_URL", "a secret of the worker", "sk-ant-of-nobody"):
        assert secret not in outcome.result


async def test_an_answer_under_a_schema_is_a_value(
    runner: ClaudeRunner, context: RecordingContext
) -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "array",
        "items": {"type": "integer"},
    }

    outcome = await runner.run(claude_job("[structured] Count.", schema=schema), context)

    assert outcome == Completed([3, 4])


async def test_an_answer_with_an_integer_beyond_64_bits_is_refused(
    runner: ClaudeRunner, context: RecordingContext
) -> None:
    with pytest.raises(PermanentError, match="an integer beyond 64 bits; return a text"):
        await runner.run(claude_job("[enormous] Count.", schema={"type": "array"}), context)


async def test_tools_of_a_server_over_http_are_called(
    runner: ClaudeRunner, context: RecordingContext
) -> None:
    job = claude_job(
        "[tool] Add with |web|.",
        mcp_servers=[{"name": "web", "allowed_tools": ["add"]}],
        allowed_tools=("mcp__web__*",),
    )

    outcome = await runner.run(job, context)

    assert isinstance(outcome, Completed)
    assert "42" in outcome.result
    (result,) = told(context, EventType.TOOL_RESULT)
    assert (result["server"], result["tool"]) == ("web", "add")
    assert not result["failed"]


async def test_an_agent_that_may_label_its_execution_reads_what_is_refused(
    runner: ClaudeRunner, context: RecordingContext
) -> None:
    job = claude_job(
        "[label] Do.",
        may_label=True,
        mcp_servers=[{"name": "tools"}],
        allowed_tools=("mcp__tools__add",),
    )

    outcome = await runner.run(job, context)

    assert isinstance(outcome, Completed)
    labelled, refused, added = loads(outcome.result)
    assert (labelled, added) == ('{"language":"en"}', '{"result":"42"}')
    assert "letter" in refused
