"""What goes wrong at the provider, in Claude Code or in an agent, and which error tells it."""

import pytest

from celeriac.agents.claude.runner import ClaudeRunner
from celeriac.domain.errors import (
    AgentMisconfiguredError,
    BudgetSpentError,
    ModelCallLimitError,
    OutputInvalidError,
    ProviderError,
    ProviderRateLimitedError,
    ProviderRefusedError,
    ToolServerError,
)
from celeriac.domain.executions.model import Completed
from celeriac.domain.usage import Clip
from tests.support.anthropic_scenes import KEY
from tests.support.anthropic_server import AnthropicServer
from tests.support.claude_jobs import claude_job
from tests.support.run_context import RecordingContext

pytestmark = [pytest.mark.anyio, pytest.mark.requirement("A12")]


async def test_a_wrong_key_is_final_and_not_repeated(
    runner: ClaudeRunner, context: RecordingContext
) -> None:
    with pytest.raises(ProviderRefusedError, match="ANTHROPIC_API_KEY") as caught:
        await runner.run(claude_job("[refused]"), context)

    assert caught.value.details["status"] == 401
    assert KEY not in str(caught.value)
    assert context.calls[-1].finish_reason == "http_401"
    assert context.external_id is None, "there is no conversation to go on with"


async def test_a_rate_limit_ends_the_attempt_at_once_with_the_provider_s_wish(
    runner: ClaudeRunner, context: RecordingContext, anthropic: AnthropicServer
) -> None:
    with pytest.raises(ProviderRateLimitedError) as caught:
        await runner.run(claude_job("[limited]"), context)

    assert caught.value.retry_after == 17
    assert len(anthropic.received) == 1, "waiting 17 seconds is for the execution, not for the slot"


async def test_a_failing_provider_is_asked_a_bounded_number_of_times(
    runner: ClaudeRunner, context: RecordingContext, anthropic: AnthropicServer
) -> None:
    with pytest.raises(ProviderError, match="HTTP 500, Oops"):
        await runner.run(claude_job("[down]"), context)

    assert len(anthropic.received) == 3
    assert [call.finish_reason for call in context.calls] == ["http_500"] * 3


async def test_an_overloaded_provider_may_recover(
    runner: ClaudeRunner, context: RecordingContext
) -> None:
    assert await runner.run(claude_job("[overloaded]"), context) == Completed("At last.")
    assert [call.finish_reason for call in context.calls] == ["http_529", "end_turn"]


@pytest.mark.parametrize("scene", ["malformed", "truncated"])
async def test_a_stream_that_breaks_is_no_answer(
    runner: ClaudeRunner, context: RecordingContext, scene: str
) -> None:
    with pytest.raises(ProviderError):
        await runner.run(claude_job(f"[{scene}]"), context)

    assert context.calls
    assert {call.finish_reason for call in context.calls} == {"unfinished"}


async def test_silence_ends_the_run_and_slowness_does_not(
    runner: ClaudeRunner, context: RecordingContext, anthropic: AnthropicServer
) -> None:
    with pytest.raises(ProviderError, match="said nothing for 2 seconds"):
        await runner.run(claude_job("[stalled]", idle_seconds=2), context)
    outcome = await runner.run(claude_job("[slow]", idle_seconds=2), context)

    assert outcome == Completed("each word comes in its own good time")
    assert anthropic.left == ["stalled"]
    assert context.calls[0].finish_reason == "unfinished"


async def test_a_running_tool_may_be_silent(
    runner: ClaudeRunner, context: RecordingContext
) -> None:
    job = claude_job("[shell] |sleep 3; echo rested|", idle_seconds=2, allowed_tools=("Bash",))

    outcome = await runner.run(job, context)

    assert isinstance(outcome, Completed)
    assert outcome.result.strip() == "rested"


async def test_a_spent_budget_stops_the_run_before_the_call(
    runner: ClaudeRunner, context: RecordingContext, anthropic: AnthropicServer
) -> None:
    context.denial = BudgetSpentError("The budget of the task is spent.")

    with pytest.raises(BudgetSpentError):
        await runner.run(claude_job("[plain]"), context)

    assert anthropic.received == []
    assert context.calls == []


async def test_a_budget_sets_the_limit_of_an_answer(
    runner: ClaudeRunner, context: RecordingContext, anthropic: AnthropicServer
) -> None:
    context.clip = Clip(1_234, "execution's budget")

    await runner.run(claude_job("[plain]"), context)

    planned, (asked, *_) = context.planned[0], anthropic.received
    assert asked.body["max_tokens"] == 1_234
    assert planned.output_limit is not None
    assert planned.output_limit > 1_234
    assert planned.least_output is not None
    assert planned.least_tokens >= planned.least_output
    assert planned.least_tokens <= planned.input_tokens + planned.output_tokens


async def test_a_text_where_a_value_was_asked_for_is_no_answer(
    runner: ClaudeRunner, context: RecordingContext
) -> None:
    with pytest.raises(OutputInvalidError):
        await runner.run(claude_job("[unstructured]", schema={"type": "object"}), context)


async def test_turns_are_bounded(runner: ClaudeRunner, context: RecordingContext) -> None:
    job = claude_job("[work]", max_turns=1, allowed_tools=("Read", "Write"))
    with pytest.raises(ModelCallLimitError, match="max_turns=1"):
        await runner.run(job, context)


async def test_a_dead_mcp_server_is_named(runner: ClaudeRunner, context: RecordingContext) -> None:
    private = {"name": "private", "url": "http://127.0.0.1:9/mcp"}
    with pytest.raises(ToolServerError, match="dead, private"):
        await runner.run(claude_job("[plain]", mcp_servers=[{"name": "dead"}, private]), context)


async def test_faults_of_the_configuration_start_nothing(
    runner: ClaudeRunner, context: RecordingContext, anthropic: AnthropicServer
) -> None:
    with pytest.raises(AgentMisconfiguredError, match="CELERIAC_MCP_SERVERS"):
        await runner.run(claude_job("[plain]", mcp_servers=[{"name": "nobody"}]), context)
    with pytest.raises(AgentMisconfiguredError, match="DATABASE_URL, which agents may not see"):
        await runner.run(claude_job("[plain]", environment=("DATABASE_URL",)), context)
    twins = [{"name": "a.b", "url": "https://x.example"}, {"name": "a b".replace(" ", "_"),
              "url": "https://x.example"}]  # fmt: skip
    with pytest.raises(AgentMisconfiguredError, match="a_b"):
        await runner.run(claude_job("[plain]", mcp_servers=twins), context)
    with pytest.raises(AgentMisconfiguredError, match="prompt"):
        await runner.run(claude_job(" "), context)

    assert anthropic.received == []
