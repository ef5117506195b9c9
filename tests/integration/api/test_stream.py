"""Following executions live (SSE), over real sockets."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from httpx_sse import ServerSentEvent, connect_sse

from celeriac.api.app import create_app
from celeriac.api.protocol import SERVER_OPTIONS
from celeriac.domain.events import EventType, NewEvent
from celeriac.domain.outcome import Completed
from celeriac.kit.jsontypes import dumps, loads
from celeriac.wiring import Container, build, build_accounts
from tests.support.api import AGENT, TASK
from tests.support.http_server import serving
from tests.support.waiting import wait_until
from tests.support.working import claim, finish, tell

pytestmark = pytest.mark.requirement("A13")


@contextmanager
def _connected(container: Container) -> Iterator[httpx.Client]:
    token = build_accounts(container).bootstrap_admin(key_name="stream").token
    headers = {"Authorization": f"Bearer {token}"}
    with (
        serving(create_app(container), **SERVER_OPTIONS) as url,
        httpx.Client(base_url=url, headers=headers, timeout=60) as http,
    ):
        yield http


@pytest.fixture
def http(container: Container) -> Iterator[httpx.Client]:
    with _connected(container) as connected:
        yield connected


def _accepted(http: httpx.Client) -> dict[str, Any]:
    http.post("/api/v1/agents", json=AGENT)
    http.post("/api/v1/tasks", json=TASK)
    response = http.post("/api/v1/tasks/summarise/execute", json={"variables": {"text": "a"}})
    body: dict[str, Any] = response.json()
    return body


def _follow(http: httpx.Client, path: str, **headers: str) -> list[ServerSentEvent]:
    with connect_sse(http, "GET", path, headers=headers) as source:
        return list(source.iter_sse())


def test_a_finished_execution_is_told_and_the_stream_ends(
    http: httpx.Client, container: Container
) -> None:
    accepted = _accepted(http)
    claimed = claim(container, accepted["execution_id"])
    tell(
        container,
        claimed,
        [NewEvent(EventType.MESSAGE, dumps({"role": "user", "content": "a\nb"}))],
    )
    finish(container, claimed, Completed(1))
    stream = accepted["_links"]["stream"]
    events = _follow(http, stream)
    assert [(event.id, event.event) for event in events] == [
        ("1", "created"), ("2", "queued"), ("3", "started"), ("4", "message"), ("5", "completed"),
    ]  # fmt: skip
    stored = http.get(accepted["_links"]["events"]).json()["items"]
    assert [loads(event.data) for event in events] == stored, "the stream tells what is stored"
    resumed = _follow(http, stream, **{"Last-Event-ID": "3"})
    assert [event.id for event in resumed] == ["4", "5"], "without gap or repeat"
    assert [event.id for event in _follow(http, f"{stream}?after=4")] == ["5"]
    ended = http.get(stream, headers={"Last-Event-ID": "5"})
    assert (ended.status_code, ended.content) == (204, b""), "so browsers stop reconnecting"


def test_what_happens_is_told_at_once_and_output_as_it_is_written(
    http: httpx.Client, container: Container
) -> None:
    accepted = _accepted(http)
    claimed = None
    with connect_sse(http, "GET", accepted["_links"]["stream"]) as source:
        events = source.iter_sse()
        assert [next(events).event for _ in range(2)] == ["created", "queued"]
        claimed = claim(container, accepted["execution_id"])
        assert next(events).event == "started"
        container.live.delta(claimed.lease.execution_id, {"text": "Cele"})
        delta = next(events)
        assert (delta.event, loads(delta.data)) == ("delta", {"text": "Cele"})
        finish(container, claimed, Completed(1))
        assert next(events).event == "completed"
        assert list(events) == [], "the stream ends with the execution"


def test_without_redis_the_stream_reads_the_database(container: Container) -> None:
    settings = container.settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})
    away = build(settings, service="test", connections=5)
    with _connected(away) as http:
        accepted = _accepted(http)
        wait_until(container.dispatch.due, "it is sent by somebody who has Redis")
        with connect_sse(http, "GET", accepted["_links"]["stream"]) as source:
            events = source.iter_sse()
            assert next(events).event == "created"
            claimed = claim(container, accepted["execution_id"])
            finish(container, claimed, Completed(1))
            told = [event.event for event in events]
        assert told[-3:] == ["queued", "started", "completed"]
    away.close()


@pytest.mark.parametrize("given", ["-1", "x", "99999999999"])
def test_a_bad_place_to_resume_from_is_refused(http: httpx.Client, given: str) -> None:
    path = _accepted(http)["_links"]["stream"]
    response = http.get(path, headers={"Last-Event-ID": given})
    assert (response.status_code, response.json()["field"]) == (422, "Last-Event-ID")
