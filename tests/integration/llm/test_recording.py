"""Recording itself: what passes, what is kept, what is left behind; and who may use a gateway."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from celeriac.agents.gateway.recording import WORKDIR, Traffic, recording
from celeriac.agents.models import Provider
from celeriac.domain.cassettes import dump
from celeriac.domain.errors import CassetteUnavailableError
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.options import NO_OPTIONS, RunOptions
from tests.support.attempt_gateway import gateway_to
from tests.support.llm_jobs import llm_job
from tests.support.model_scenes import KEY
from tests.support.model_server import ModelServer
from tests.support.run_context import RecordingContext
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio

RECORD = RunOptions(record=True)


def _body(prompt: str) -> dict[str, Any]:
    return {"model": "m", "stream": True, "messages": [{"role": "user", "content": prompt}]}


def _client(traffic: Traffic, base_url: str) -> httpx2.AsyncClient:
    provider = Provider(name="test", base_url=base_url)
    return httpx2.AsyncClient(
        trust_env=False, timeout=20, base_url=base_url, transport=traffic.transport(provider)
    )


async def _ask(traffic: Traffic, base_url: str, prompt: str) -> httpx2.Response:
    async with _client(traffic, base_url) as client:
        headers = {"Authorization": f"Bearer {KEY}"}
        return await client.post("chat/completions", json=_body(prompt), headers=headers)


def _said(answer: httpx2.Response) -> str:
    return "".join(re.findall(r'"content": ?"([^"]*)"', answer.text))


def _plain_client() -> httpx2.AsyncClient:
    return httpx2.AsyncClient(trust_env=False, timeout=20)


async def _until(holds: Callable[[], bool], what: str) -> None:
    await asyncio.to_thread(wait_until, holds, what)


@asynccontextmanager
async def _recorded(
    context: RecordingContext, options: RunOptions, **more: Any
) -> AsyncIterator[Traffic]:
    async with recording(replace(llm_job("plain"), options=options), context, **more) as traffic:
        yield traffic


async def test_without_an_option_requests_go_directly(context: RecordingContext) -> None:
    async with _recorded(context, NO_OPTIONS) as traffic:
        assert traffic.direct
        assert traffic.transport(Provider(name="test", base_url="https://api.example/v1")) is None


async def test_an_answer_passes_piece_by_piece_while_it_comes(
    model_server: ModelServer, context: RecordingContext
) -> None:
    async with (
        _recorded(context, RECORD) as traffic,
        _client(traffic, model_server.base_url) as client,
    ):
        async with client.stream("POST", "chat/completions", json=_body("stalled")) as answer:
            first = await anext(answer.aiter_bytes())
        assert b"One moment" in first, "the rest never comes, yet this has arrived"
        await _until(lambda: model_server.left == ["stalled"], "the provider is left alone")
    assert context.recorded.interactions == (), "what was given up is not recorded"


async def test_requests_at_once_are_kept_in_the_order_they_began(
    model_server: ModelServer, context: RecordingContext
) -> None:
    prompts = [f"plain {number}" for number in range(20)]
    async with _recorded(context, RECORD) as traffic:
        url = model_server.base_url
        answers = await asyncio.gather(*(_ask(traffic, url, prompt) for prompt in prompts))
    kept = context.recorded.interactions
    assert {each.request.body["messages"][0]["content"] for each in kept} == set(prompts)
    context.played = context.recorded
    async with _recorded(context, RunOptions(cassette_id=uuid4())) as traffic:
        url = "http://nowhere.invalid/v1"
        replayed = await asyncio.gather(
            *(_ask(traffic, url, prompt) for prompt in reversed(prompts))
        )
    assert {_said(answer) for answer in (*answers, *replayed)} == {"Hello there, friend."}


async def test_a_stranger_on_this_machine_gets_nothing(
    model_server: ModelServer, context: RecordingContext
) -> None:
    async with gateway_to(model_server.base_url, context) as gateway, _plain_client() as client:
        url = f"{gateway.base_url('test')}/chat/completions"
        for key in ("", "x", gateway.key[:-1], f"{gateway.key}x"):
            for name in ("authorization", "x-api-key"):
                answer = await client.post(url, json=_body("plain"), headers={name: key})
                assert answer.status_code == 401, (name, key)
    assert model_server.received == []
    assert context.planned == []


async def test_only_model_calls_of_known_providers_pass(
    model_server: ModelServer, context: RecordingContext
) -> None:
    async with gateway_to(model_server.base_url, context) as gateway, _plain_client() as client:
        headers = {"authorization": f"Bearer {gateway.key}"}
        for path in ("/", "/test", "/test/embeddings", "/other/chat/completions", "/%", "//x",
                     "/test/chat/completions/x"):  # fmt: skip
            url = httpx2.URL(gateway.address).copy_with(raw_path=path.encode())
            answer = await client.post(url, json=_body("plain"), headers=headers)
            assert answer.status_code == 404, path
        listed = await client.get(f"{gateway.base_url('test')}/models", headers=headers)
        assert listed.status_code == 404
    assert model_server.received == []


async def test_a_key_is_valid_for_its_attempt_alone(
    model_server: ModelServer, context: RecordingContext
) -> None:
    async with (
        gateway_to(model_server.base_url, context) as first,
        gateway_to(model_server.base_url, context) as second,
        _plain_client() as client,
    ):
        headers = {"authorization": f"Bearer {first.key}"}
        for gateway, status in ((first, 200), (second, 401)):
            url = f"{gateway.base_url('test')}/chat/completions"
            answer = await client.post(url, json=_body("plain"), headers=headers)
            assert answer.status_code == status
    (asked,) = model_server.received
    assert asked.headers["authorization"] == f"Bearer {KEY}", "the worker adds its own key"
    assert len(context.calls) == 1


async def test_a_program_may_stream_and_the_gateway_asks_for_the_usage(
    model_server: ModelServer, context: RecordingContext
) -> None:
    async with gateway_to(model_server.base_url, context) as gateway, _plain_client() as client:
        url = f"{gateway.base_url('test')}/chat/completions"
        headers = {"authorization": f"Bearer {gateway.key}"}
        answer = await client.post(url, json=_body("plain"), headers=headers)
    assert _said(answer) == "Hello there, friend."
    assert answer.text.endswith("data: [DONE]\n\n")
    assert model_server.received[0].body["stream_options"] == {"include_usage": True}
    assert [call.finish_reason for call in context.calls] == ["stop"]


async def test_a_stream_that_breaks_off_ends_with_an_error(
    model_server: ModelServer, context: RecordingContext
) -> None:
    async with gateway_to(model_server.base_url, context) as gateway, _plain_client() as client:
        url = f"{gateway.base_url('test')}/chat/completions"
        headers = {"authorization": f"Bearer {gateway.key}"}
        answer = await client.post(url, json=_body("dropped"), headers=headers)
    last = json.loads(answer.text.strip().rsplit("data: ", 1)[-1])
    assert last["error"]["code"] == "provider_error"
    assert last["error"]["retryable"] is True
    assert [call.finish_reason for call in context.calls] == ["unfinished"]


async def test_a_cancelled_run_leaves_no_request_behind(
    model_server: ModelServer, context: RecordingContext
) -> None:
    async def run() -> None:
        async with _recorded(context, RECORD) as traffic:
            url = model_server.base_url
            await _ask(traffic, url, "plain")
            await _ask(traffic, url, "silent")

    running = asyncio.create_task(run())
    await _until(lambda: bool(model_server.asked("silent")), "the provider is asked")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert len(context.recorded.interactions) == 1, "what was whole by then is kept"
    await _until(lambda: model_server.left == ["silent"], "the provider is left alone")


async def test_a_recording_that_grows_too_large_ends_and_the_run_goes_on(
    model_server: ModelServer, context: RecordingContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celeriac.agents.gateway.recording.MAX_BYTES", 1500)
    async with _recorded(context, RECORD) as traffic:
        url = model_server.base_url
        answers = [await _ask(traffic, url, "plain") for _ in range(3)]
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
    async with _recorded(context, RECORD, workdir=then) as traffic:
        url = model_server.base_url
        await _ask(traffic, url, f"halves {then}/notes.md")
    assert str(then) not in dump(context.recorded)
    assert f"{WORKDIR}/notes.md" in dump(context.recorded), "though it came in two pieces"
    context.played = context.recorded
    async with _recorded(context, RunOptions(cassette_id=uuid4()), workdir=now) as traffic:
        url = "http://nowhere.invalid/v1"
        said = (await _ask(traffic, url, f"halves {now}/notes.md")).text
    assert f"{now}/notes.md" in said


async def test_a_cassette_that_is_gone_is_said_before_anything_is_done(
    context: RecordingContext,
) -> None:
    with pytest.raises(CassetteUnavailableError):
        async with _recorded(context, RunOptions(cassette_id=uuid4())):
            pytest.fail("there is nothing to play")


async def test_a_request_of_absurd_size_is_refused(
    model_server: ModelServer, context: RecordingContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celeriac.agents.gateway.http_server.MAX_REQUEST_BYTES", 1000)
    async with gateway_to(model_server.base_url, context) as gateway, _plain_client() as client:
        url = f"{gateway.base_url('test')}/chat/completions"
        refused = await client.post(url, json=_body("plain " * 1000))
    assert refused.status_code == 413
    assert model_server.received == []
