"""Conversations that go on: after a wait, after a failure, in another execution."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from celeriac.agents.llm.runner import LlmRunner
from celeriac.domain.agents import McpServer
from celeriac.domain.errors import (
    ModelCallLimitError,
    ProviderRateLimitedError,
    SessionUnavailableError,
)
from celeriac.domain.executions.model import MustWaitError, Parked
from celeriac.domain.executions.options import RunOptions
from celeriac.domain.executions.states import WaitingFor
from celeriac.domain.sessions import Session
from celeriac.domain.usage import CallEstimate, Reservation
from celeriac.kit.json_types import storable
from tests.support.llm_jobs import (
    TICKET_SCHEMA,
    llm_job,
    next_attempt,
    parked_of,
    result_of,
    saved_session,
    session,
)
from tests.support.model_server import ModelServer
from tests.support.run_context import RecordingContext

pytestmark = pytest.mark.anyio

TOOLS = (McpServer(name="desk"),)
NOTE = 'desk__note {"text": "once"}'


class Sparing(RecordingContext):
    """Gives leave for some model calls, then none."""

    def __init__(self, workdir: Path, *, leave: int) -> None:
        super().__init__(workdir)
        self.leave = leave

    async def admit(self, call: CallEstimate) -> Reservation | None:
        if len(self.planned) == self.leave:
            self.denial = MustWaitError(
                Parked(WaitingFor.PROVIDER_LIMIT, "The limit is used up.", seconds=5)
            )
        return await super().admit(call)


def notes(context: RecordingContext) -> int:
    return len((context.workdir / "notes").read_text().splitlines())


@pytest.mark.parametrize("leave", [0, 1, 2])
async def test_a_run_that_must_wait_goes_on_and_repeats_no_call(
    runner: LlmRunner, tmp_path: Path, model_server: ModelServer, leave: int
) -> None:
    context = Sparing(tmp_path, leave=leave)
    job = llm_job(f"use {NOTE} / {NOTE}", mcp_servers=TOOLS)
    with pytest.raises(MustWaitError):
        await runner.run(job, context)
    assert len(model_server.received) == leave

    context.denial, context.leave = None, 100
    outcome = await runner.run(next_attempt(job, context), context)

    assert result_of(outcome) == "noted once; noted once"
    assert len(model_server.received) == 3, "each answer was asked for once"
    assert notes(context) == 2


async def test_a_providers_limit_loses_nothing_that_tools_did(
    runner: LlmRunner, context: RecordingContext
) -> None:
    job = llm_job("interrupted", mcp_servers=TOOLS)
    with pytest.raises(ProviderRateLimitedError) as caught:
        await runner.run(job, context)
    assert caught.value.retry_after == 17

    outcome = await runner.run(next_attempt(job, context), context)

    assert result_of(outcome) == "noted once"
    assert notes(context) == 1


async def test_a_model_is_asked_the_same_after_a_wait(
    runner: LlmRunner, tmp_path: Path, model_server: ModelServer
) -> None:
    """Above all what the library words itself, such as what was wrong with an answer."""
    job = llm_job("repaired", schema=TICKET_SCHEMA)
    await runner.run(job, RecordingContext(tmp_path / "at once"))
    at_once = [received.body["messages"] for received in model_server.received]
    model_server.forget()

    context = Sparing(tmp_path, leave=1)
    with pytest.raises(MustWaitError):
        await runner.run(job, context)
    context.denial, context.leave = None, 100
    await runner.run(next_attempt(job, context), context)

    assert [received.body["messages"] for received in model_server.received] == at_once


async def test_a_crash_after_a_tool_repeats_neither_the_tool_nor_its_key(
    runner: LlmRunner, context: RecordingContext
) -> None:
    first = RecordingContext(context.workdir)
    job = llm_job(f"use {NOTE} / {NOTE}", mcp_servers=TOOLS)
    save = context.save_session

    async def remember(**values: Any) -> UUID:
        if first.state is None:
            await first.save_session(**values)
        return await save(**values)

    context.save_session = remember  # type: ignore[method-assign]
    await runner.run(job, context)

    outcome = await runner.run(next_attempt(job, first), context)

    assert result_of(outcome) == "noted once; noted once"
    keys = [line.split()[1] for line in (context.workdir / "notes").read_text().splitlines()]
    assert len(keys) == 3, "the first call was not repeated, the second was"
    assert keys[1] == keys[2] != keys[0]


async def test_the_limit_of_model_calls_holds_over_attempts(
    runner: LlmRunner, tmp_path: Path
) -> None:
    context = Sparing(tmp_path, leave=1)
    job = llm_job(f"use {NOTE} / {NOTE}", mcp_servers=TOOLS, max_model_calls=2)
    with pytest.raises(MustWaitError):
        await runner.run(job, context)

    context.denial, context.leave = None, 100
    with pytest.raises(ModelCallLimitError):
        await runner.run(next_attempt(job, context), context)

    assert len(context.calls) == 2


async def test_nothing_is_saved_of_a_run_that_needs_no_session(
    runner: LlmRunner, context: RecordingContext
) -> None:
    await runner.run(llm_job("plain"), context)

    assert context.state is None


async def test_what_was_saved_on_the_way_is_forgotten_where_no_session_is_wanted(
    runner: LlmRunner, context: RecordingContext
) -> None:
    await runner.run(llm_job(f"use {NOTE}", mcp_servers=TOOLS), context)

    assert context.messages == ()


async def test_an_attempt_that_goes_on_changes_nothing_that_is_stored(
    runner: LlmRunner, tmp_path: Path
) -> None:
    """What was read is written as it was, so that only what is new is stored.

    The library stamps the request that is repeated anew.
    """
    context = Sparing(tmp_path, leave=1)
    job = llm_job(f"use {NOTE} / {NOTE}", mcp_servers=TOOLS, keep_session=True)
    with pytest.raises(MustWaitError):
        await runner.run(job, context)
    before = [storable(each) for each in context.messages]
    context.denial, context.leave = None, 100
    await runner.run(next_attempt(job, context), context)
    after = [storable(each) for each in context.messages]
    assert 1 < len(before) < len(after)
    assert after[: len(before) - 1] == before[:-1]
    following = replace(llm_job("and"), session=saved_session(context, by=job.execution_id))
    await runner.run(following, context)
    assert [storable(each) for each in context.messages][: len(after)] == after


@pytest.mark.parametrize("keep", [False, True])
async def test_a_finished_turn_whose_end_was_not_stored_is_not_repeated(
    runner: LlmRunner, context: RecordingContext, model_server: ModelServer, keep: bool
) -> None:
    job = llm_job(f"use {NOTE}", mcp_servers=TOOLS, keep_session=keep)
    first = await runner.run(job, context)
    asked = len(model_server.received)

    again = await runner.run(next_attempt(job, context), context)

    assert again == first
    assert len(model_server.received) == asked
    assert notes(context) == 1


async def test_another_execution_goes_on_with_the_conversation(
    runner: LlmRunner, context: RecordingContext
) -> None:
    first = llm_job("remember me", keep_session=True)
    await runner.run(first, context)
    second = replace(llm_job("and you"), session=saved_session(context, by=first.execution_id))

    outcome = await runner.run(second, context)
    third = replace(llm_job("too"), session=saved_session(context, by=first.execution_id))

    assert result_of(outcome) == "remember me | remember me | and you"
    outcome = await runner.run(third, context)
    assert result_of(outcome).endswith("and you | too"), "a session that is given is kept"


async def test_a_fork_takes_the_conversation_with_it(
    runner: LlmRunner, context: RecordingContext
) -> None:
    first = llm_job("remember me", keep_session=True)
    await runner.run(first, context)
    job = replace(
        llm_job("and you"),
        session=saved_session(context, by=first.execution_id),
        options=RunOptions(fork_session=True),
    )
    assert job.forks

    outcome = await runner.run(job, context)

    assert result_of(outcome) == "remember me | remember me | and you"
    assert len(context.messages) == 4, "the fork is kept"


async def test_a_turn_that_another_execution_left_undone_is_closed(
    runner: LlmRunner, context: RecordingContext, model_server: ModelServer
) -> None:
    prompt = 'use ask_person {"question": "Which?"}'
    left = llm_job(prompt, may_ask=True)
    first = parked_of(await runner.run(left, context))
    job = replace(
        llm_job(prompt, may_ask=True), session=saved_session(context, by=left.execution_id)
    )

    second = parked_of(await runner.run(job, context))

    assert first.questions[0].key != second.questions[0].key
    roles = [message["role"] for message in model_server.received[-1].body["messages"]]
    assert roles == ["user", "assistant", "tool", "user"], "the call that waited is closed"


@pytest.mark.parametrize(
    ("left", "message"),
    [
        (session({}, by=uuid4()), "holds no conversation: its agent has keep_session off"),
        (session(None, by=uuid4()), "was saved by another release"),
        (session({"version": 9}, by=uuid4()), "was saved by another release"),
        (session({}, [{"kind": "novel"}], by=uuid4()), "was saved by another release"),
        (
            session({}, by=uuid4(), runner="claude"),
            "is one of a claude agent; an llm agent can't go on with it",
        ),
    ],
)
async def test_a_session_that_cannot_be_gone_on_with_is_told(
    runner: LlmRunner, context: RecordingContext, left: Session, message: str
) -> None:
    job = replace(llm_job("plain"), session=left)

    with pytest.raises(SessionUnavailableError, match=message):
        await runner.run(job, context)
