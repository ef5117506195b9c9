"""Waiting for an execution, against an API that is played here: what is asked, and when it ends."""

import asyncio
import time
from typing import Any

import httpx
import pytest
from mcp import Client as McpClient

from celeriac import wire
from celeriac.client import Client
from celeriac.mcp_server.access import one_key
from celeriac.mcp_server.server import build_server
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio

_LONGER_THAN_BETWEEN_LOOKS = 1.5


class Api:
    """An API with one execution, whose answers a test changes as it goes."""

    def __init__(self) -> None:
        self.execution: dict[str, Any] = wire.Execution.example() | {
            "status": "running", "result": None, "event_count": 3,
        }  # fmt: skip
        self.events: list[dict[str, Any]] = []
        self.questions: list[dict[str, Any]] = []
        self.asked_at = 0.0

    def tell(self, kind: str, **changes: Any) -> None:
        """Change the execution, with an event of that kind."""
        self.execution = self.execution | changes
        self.events.append({**wire.Event.example(), "seq": 4 + len(self.events), "type": kind})

    def client(self) -> Client:
        return Client("http://api", "cel_key", transport=httpx.MockTransport(self._answer))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.asked_at = time.monotonic()
        if request.url.path.endswith("/events"):
            after = int(request.url.params["after"])
            news = [each for each in self.events if each["seq"] > after]
            return httpx.Response(200, json={"items": news, "next_after": None})
        if request.url.path.endswith("/approvals"):
            return httpx.Response(200, json={"items": self.questions, "next_cursor": None})
        return httpx.Response(200, json=self.execution)


async def wait(server: McpClient, told: list[str | None], **more: Any) -> dict[str, Any]:
    async def note(progress: float, total: float | None, message: str | None) -> None:
        told.append(message)

    result = await server.call_tool(
        "wait_for_execution",
        {"execution_id": wire.Execution.example()["id"], "timeout_seconds": 60, **more},
        progress_callback=note,
    )
    assert not result.is_error, result.content
    assert result.structured_content is not None
    return dict(result.structured_content)


async def test_progress_is_reported_as_it_comes() -> None:
    api, told = Api(), list[str | None]()
    with api.client() as client:
        async with McpClient(build_server(one_key(client))) as server:
            waiting = asyncio.create_task(wait(server, told))
            await asyncio.to_thread(wait_until, lambda: told == ["running"], "it waits")
            api.tell("progress", progress={"done": 1, "total": 2, "note": "half"})
            await asyncio.to_thread(wait_until, lambda: len(told) > 1, "progress is reported")
            api.tell("completed", status="completed", result=[1])
            done = await waiting

    assert told == ["running", "running, 1 of 2: half", "completed, 1 of 2: half"]
    assert (done["ended"], done["asks"], done["result"]) == (True, False, [1])


async def test_a_question_ends_the_wait_unless_it_is_to_wait_through() -> None:
    api, told = Api(), list[str | None]()
    api.questions = [wire.Approval.example()]
    with api.client() as client:
        async with McpClient(build_server(one_key(client))) as server:
            asked = await wait(server, told)
            through = await wait(server, told, stop_at_question=False, timeout_seconds=0.2)

    assert (asked["ended"], asked["asks"]) == (False, True)
    assert (through["ended"], through["asks"]) == (False, True)


async def test_a_wait_that_is_given_up_asks_no_more() -> None:
    api, told = Api(), list[str | None]()
    with api.client() as client:
        async with McpClient(build_server(one_key(client))) as server:
            waiting = asyncio.create_task(wait(server, told))
            await asyncio.to_thread(wait_until, lambda: told, "it waits")
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting

            def is_quiet() -> bool:
                return time.monotonic() - api.asked_at > _LONGER_THAN_BETWEEN_LOOKS

            await asyncio.to_thread(wait_until, is_quiet, "the API is asked no more", within=20)
