"""The tape itself: what passes through it, who may use it, what it leaves behind."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from celeriac.agents.recording import RecordingProxy, taping
from celeriac.agents.recording.fetch import WORKDIR
from celeriac.domain.cassettes import dump
from celeriac.domain.errors import CassetteUnavailableError
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.model import NO_OPTIONS, RunOptions
from tests.support.llm_jobs import llm_job
from tests.support.model_scenes import KEY
from tests.support.model_server import ModelServer
from tests.support.run_context import RecordingContext
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio

RECORD = RunOptions(record=True)


def _body(prompt: str) -> dict[str, Any]:
    return {"model": "m", "stream": True, "messages": [{"role": "user", "content": prompt}]}


async def _ask(base_url: str, prompt: str) -> httpx2.Response:
    async with httpx2.AsyncClient(trust_env=False, timeout=20) as client:
        headers = {"Authorization": f"Bearer {KEY}"}
        return await client.post(
            f"{base_url}/chat/completions", json=_body(prompt), headers=headers
        )


def _said(answer: httpx2.Response) -> str:
    return "".join(re.findall(r'"content": ?"([^"]*)"', answer.text))


async def _until(holds: Callable[[], bool], what: str) -> None:
    await asyncio.to_thread(wait_until, holds, what)


@asynccontextmanager
async def _taped(
    context: RecordingContext, options: RunOptions, **more: Any
) -> AsyncIterator[RecordingProxy]:
    async with taping(replace(llm_job("plain"), options=options), context, **more) as tape:
        yield tape


async def test_without_a_wish_there_is_no_tape(context: RecordingContext) -> None:
    async with _taped(context, NO_OPTIONS) as tape:
        assert not tape.active
        assert tape.base_url("test", "https://api.example/v1") == "https://api.example/v1"


async def test_an_answer_passes_piece_by_piece_while_it_comes(
    model_server: ModelServer, context: RecordingContext
) -> None:
    async with _taped(context, RECORD) as tape, httpx2.AsyncClient(trust_env=False) as client:
        url = tape.base_url("test", model_server.base_url) + "/chat/completions"
        async with client.stream("POST", url, json=_body("stalled")) as answer:
            first = await anext(answer.aiter_bytes())
        assert b"One moment" in first, "the rest never comes, yet this has arrived"
        await _until(lambda: model_server.left == ["stalled"], "the provider is left alone")
    assert context.recorded.interactions == (), "what was given up is not recorded"


async def test_requests_at_once_are_kept_in_the_order_they_began(
    model_server: ModelServer, context: RecordingContext
) -> None:
    prompts = [f"plain {number}" for number in range(20)]
    async with _taped(context, RECORD) as tape:
        url = tape.base_url("test", model_server.base_url)
        answers = await asyncio.gather(*(_ask(url, prompt) for prompt in prompts))
    kept = context.recorded.interactions
    assert {each.request.body["messages"][0]["content"] for each in kept} == set(prompts)
    context.played = context.recorded
    async with _taped(context, RunOptions(cassette_id=uuid4())) as tape:
        url = tape.base_url("test", "http://nowhere.invalid")
        replayed = await asyncio.gather(*(_ask(url, prompt) for prompt in reversed(prompts)))
    assert {_said(answer) for answer in (*answers, *replayed)} == {"Hello there, friend."}


async def test_a_stranger_on_this_machine_gets_nothing(
    model_server: ModelServer, context: RecordingContext
) -> None:
    async with _taped(context, RECORD) as tape:
        url = httpx2.URL(tape.base_url("test", model_server.base_url))
        async with httpx2.AsyncClient(trust_env=False) as client:
            for path in ("/", "/0/chat/completions", "/x/0/chat", f"{url.path[:-1]}7/chat", "/%"):
                answer = await client.post(url.copy_with(path=path), json=_body("plain"))
                assert answer.status_code == 404, path
    assert model_server.received == []


async def test_a_cancelled_run_leaves_no_server_and_no_request_behind(
    model_server: ModelServer, context: RecordingContext
) -> None:
    url = ""

    async def run() -> None:
        nonlocal url
        async with _taped(context, RECORD) as tape:
            url = tape.base_url("test", model_server.base_url)
            await _ask(url, "plain")
            await _ask(url, "silent")

    running = asyncio.create_task(run())
    await _until(lambda: bool(model_server.asked("silent")), "the provider is asked")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert len(context.recorded.interactions) == 1, "what was whole by then is kept"
    await _until(lambda: model_server.left == ["silent"], "the provider is left alone")
    with pytest.raises(httpx2.ConnectError):
        await _ask(url, "plain")


async def test_a_recording_that_grows_too_large_ends_and_the_run_goes_on(
    model_server: ModelServer, context: RecordingContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celeriac.agents.recording.recorder.MAX_BYTES", 1500)
    async with _taped(context, RECORD) as tape:
        url = tape.base_url("test", model_server.base_url)
        answers = [await _ask(url, "plain") for _ in range(3)]
    assert {answer.status_code for answer in answers} == {200}
    assert len(context.recorded.interactions) == 1
    assert not context.recorded.header.complete
    (event,) = [data for kind, data in context.events if kind is EventType.LOG]
    assert event["level"] == "warning"
    assert "size limit" in event["message"]


async def test_the_working_directory_is_another_in_each_run(
    model_server: ModelServer, context: RecordingContext, tmp_path: Path
) -> None:
    then, now = tmp_path / str(uuid4()), tmp_path / "somewhere else"
    async with _taped(context, RECORD, workdir=then) as tape:
        url = tape.base_url("test", model_server.base_url)
        await _ask(url, f"halves {then}/notes.md")
    assert str(then) not in dump(context.recorded)
    assert f"{WORKDIR}/notes.md" in dump(context.recorded), "though it came in two pieces"
    context.played = context.recorded
    async with _taped(context, RunOptions(cassette_id=uuid4()), workdir=now) as tape:
        url = tape.base_url("test", "http://nowhere.invalid")
        said = (await _ask(url, f"halves {now}/notes.md")).text
    assert f"{now}/notes.md" in said


async def test_a_cassette_that_is_gone_is_said_before_anything_is_done(
    context: RecordingContext,
) -> None:
    with pytest.raises(CassetteUnavailableError):
        async with _taped(context, RunOptions(cassette_id=uuid4())):
            pytest.fail("there is nothing to play")


async def test_a_request_of_absurd_size_is_refused(
    model_server: ModelServer, context: RecordingContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celeriac.agents.recording.server.MAX_REQUEST_BYTES", 1000)
    async with _taped(context, RECORD) as tape:
        refused = await _ask(tape.base_url("test", model_server.base_url), "plain " * 1000)
    assert refused.status_code == 413
    assert model_server.received == []
