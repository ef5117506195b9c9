"""Following executions live (SSE), over real sockets."""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from httpx_sse import EventSource, ServerSentEvent, aconnect_sse, connect_sse
from redis import Redis
from sqlalchemy import text

from celeriac.api.app import create_app
from celeriac.api.core.protocol import SERVER_OPTIONS
from celeriac.domain.executions.events import EventType, NewEvent
from celeriac.domain.executions.model import Completed
from celeriac.kit.json_types import dumps, loads
from celeriac.wiring.core import CoreServices, build
from tests.support.api import AGENT, TASK, build_accounts
from tests.support.http_server import serving
from tests.support.servers import ValkeyServer
from tests.support.waiting import wait_until
from tests.support.working import claim, finish, write_events

pytestmark = pytest.mark.requirement("A13")


@contextmanager
def _connected(container: CoreServices, app: FastAPI | None = None) -> Iterator[httpx.Client]:
    token = build_accounts(container).bootstrap_admin(key_name="stream").token
    headers = {"Authorization": f"Bearer {token}"}
    with (
        serving(app or create_app(container), **SERVER_OPTIONS) as url,
        httpx.Client(base_url=url, headers=headers, timeout=60) as http,
    ):
        yield http


@pytest.fixture
def http(container: CoreServices) -> Iterator[httpx.Client]:
    with _connected(container) as connected:
        yield connected


def _accepted(http: httpx.Client) -> dict[str, Any]:
    http.post("/api/v1/agents", json=AGENT)
    http.post("/api/v1/tasks", json=TASK)
    response = http.post("/api/v1/tasks/summarise/execute", json={"variables": {"text": "a"}})
    body: dict[str, Any] = response.json()
    return body


def _sent(source: EventSource) -> Iterator[ServerSentEvent]:
    """Yield the events; httpx-sse yields the server's pings too, as events without data."""
    return (event for event in source.iter_sse() if event.data)


def _follow(http: httpx.Client, path: str, **headers: str) -> list[ServerSentEvent]:
    with connect_sse(http, "GET", path, headers=headers) as source:
        return list(_sent(source))


def test_a_finished_execution_is_told_and_the_stream_ends(
    http: httpx.Client, container: CoreServices
) -> None:
    accepted = _accepted(http)
    claimed = claim(container, accepted["execution_id"])
    write_events(
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
    http: httpx.Client, container: CoreServices
) -> None:
    accepted = _accepted(http)
    claimed = None
    with connect_sse(http, "GET", accepted["_links"]["stream"]) as source:
        events = _sent(source)
        assert [next(events).event for _ in range(2)] == ["created", "queued"]
        claimed = claim(container, accepted["execution_id"])
        assert next(events).event == "started"
        container.live.delta(claimed.lease.execution_id, {"text": "Cele"})
        delta = next(events)
        assert (delta.event, loads(delta.data)) == ("delta", {"text": "Cele"})
        finish(container, claimed, Completed(1))
        assert next(events).event == "completed"
        assert list(events) == [], "the stream ends with the execution"


def test_without_redis_the_stream_reads_the_database(container: CoreServices) -> None:
    settings = container.settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})
    away = build(settings, service="test", connections=5)
    with _connected(away) as http:
        accepted = _accepted(http)
        wait_until(container.dispatch.send_due, "it is sent by somebody who has Redis")
        with connect_sse(http, "GET", accepted["_links"]["stream"]) as source:
            events = _sent(source)
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


@contextmanager
def _key(http: httpx.Client) -> Iterator[tuple[httpx.Client, str]]:
    made = http.post("/api/v1/api-keys", json={"name": "viewer"}).json()
    headers = {"Authorization": f"Bearer {made['token']}"}
    with httpx.Client(base_url=http.base_url, headers=headers, timeout=60) as client:
        yield client, made["id"]


def _revoke_elsewhere(container: CoreServices, key_id: str) -> None:
    """Do it as another API process does: this one isn't told."""
    with container.database.autocommit() as connection:
        connection.execute(text("UPDATE api_keys SET revoked_at = now() WHERE id = :id"),
                           {"id": key_id})  # fmt: skip


def test_a_stream_ends_with_its_key(http: httpx.Client, container: CoreServices) -> None:
    accepted = _accepted(http)
    with _key(http) as (viewer, key_id):
        with connect_sse(viewer, "GET", accepted["_links"]["stream"]) as source:
            events = _sent(source)
            assert next(events).event == "created"
            _revoke_elsewhere(container, key_id)
            assert [event.event for event in events] == ["queued"], "idle, it ends by itself"
        assert viewer.get(accepted["_links"]["stream"]).status_code == 401


def _spend_bad_keys(http: httpx.Client) -> None:
    """Send bad keys from this address until no more are looked up."""
    with httpx.Client(base_url=http.base_url, timeout=60) as guesser:
        for number in range(1000):
            headers = {"Authorization": f"Bearer cel_guess_{number}"}
            if guesser.get("/api/v1/me", headers=headers).status_code == 429:
                return
    raise AssertionError("bad keys are not limited")


def test_a_stream_goes_on_beside_bad_keys_from_its_address(container: CoreServices) -> None:
    app = create_app(container)
    with _connected(container, app) as http, _key(http) as (viewer, _):
        accepted = _accepted(http)
        claimed = claim(container, accepted["execution_id"])
        with connect_sse(viewer, "GET", accepted["_links"]["stream"]) as source:
            events = _sent(source)
            assert [next(events).event for _ in range(3)] == ["created", "queued", "started"]
            _spend_bad_keys(http)
            app.state.lookups._bad_keys._good.clear()  # as if thousands of others had come since
            app.state.services.authenticate.forget()  # and some seconds had passed
            finish(container, claimed, Completed(1))
            assert [event.event for event in events] == ["completed"]


def test_a_stream_ends_with_its_key_whoever_guesses_beside_it(
    http: httpx.Client, container: CoreServices
) -> None:
    accepted = _accepted(http)
    with (
        _key(http) as (viewer, key_id),
        connect_sse(viewer, "GET", accepted["_links"]["stream"]) as source,
    ):
        events = _sent(source)
        assert next(events).event == "created"
        _spend_bad_keys(http)
        _revoke_elsewhere(container, key_id)
        assert [event.event for event in events] == ["queued"]


def _joined(http: httpx.Client) -> tuple[dict[str, Any], dict[str, str]]:
    """Make a workspace, work in it, and return another member with the headers of their key."""
    me = http.get("/api/v1/me").json()
    eve: dict[str, Any] = http.post("/api/v1/users", json={"name": "eve"}).json()
    http.post("/api/v1/workspaces", json={"name": "team"}).raise_for_status()
    for user in (me, eve):
        http.post("/api/v1/workspaces/team/members", json={"user": user["id"]}).raise_for_status()
    key = {"name": "e", "user_id": eve["id"], "workspace": "team"}
    token = http.post("/api/v1/api-keys", json=key).json()["token"]
    http.headers["Celeriac-Workspace"] = "team"
    return eve, {"Authorization": f"Bearer {token}"}


def test_a_stream_ends_with_its_user(http: httpx.Client, container: CoreServices) -> None:
    user, headers = _joined(http)
    accepted = _accepted(http)
    claimed = claim(container, accepted["execution_id"])
    with (
        httpx.Client(base_url=http.base_url, headers=headers, timeout=60) as eve,
        connect_sse(eve, "GET", accepted["_links"]["stream"]) as source,
    ):
        events = _sent(source)
        assert [next(events).event for _ in range(3)] == ["created", "queued", "started"]
        http.patch(f"/api/v1/users/{user['id']}", json={"disabled": True}).raise_for_status()
        finish(container, claimed, Completed(1))
        assert list(events) == [], "what comes next is not shown any more"


def test_a_stream_ends_when_its_reader_is_removed_from_the_workspace(http: httpx.Client) -> None:
    user, headers = _joined(http)
    accepted = _accepted(http)
    with (
        httpx.Client(base_url=http.base_url, headers=headers, timeout=60) as eve,
        connect_sse(eve, "GET", accepted["_links"]["stream"]) as source,
    ):
        events = _sent(source)
        assert [next(events).event for _ in range(2)] == ["created", "queued"]
        member = f"/api/v1/workspaces/team/members/{user['id']}"
        http.delete(member).raise_for_status()
        assert list(events) == []


def test_waiting_in_sync_mode_ends_with_the_key(
    http: httpx.Client, container: CoreServices
) -> None:
    _accepted(http)
    with _key(http) as (viewer, key_id), ThreadPoolExecutor(1) as pool:
        body = {"variables": {"text": "a"}, "execution_mode": "sync"}
        answer = pool.submit(viewer.post, "/api/v1/tasks/summarise/execute", json=body)
        count = text("SELECT count(*) FROM executions")

        def stored() -> bool:
            with container.database.autocommit() as connection:
                return int(connection.execute(count).scalar_one()) == 2

        wait_until(stored, "the execution is stored")
        _revoke_elsewhere(container, key_id)
        assert answer.result(30).status_code == 401


def test_many_streams_share_one_connection_and_one_query(
    http: httpx.Client, container: CoreServices, valkey_server: ValkeyServer
) -> None:
    """They all see the end; idle ones cost a look into the database a second, together."""
    streams = 300
    accepted = [_accepted(http) for _ in range(3)]
    claimed = [claim(container, each["execution_id"]) for each in accepted]
    redis = Redis.from_url(valkey_server.url(0))
    seen: list[list[str]] = [[] for _ in range(streams)]

    async def follow(client: httpx.AsyncClient, number: int) -> None:
        path = accepted[number % 3]["_links"]["stream"]
        async with aconnect_sse(client, "GET", path) as source:
            async for event in source.aiter_sse():
                if event.data:  # as `_sent`
                    seen[number].append(event.event)

    async def everybody() -> None:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(
            base_url=http.base_url, headers=http.headers, timeout=60, limits=limits
        ) as client:
            following = [asyncio.create_task(follow(client, n)) for n in range(streams)]
            await asyncio.to_thread(
                wait_until, lambda: all(len(each) == 3 for each in seen), "all follow"
            )
            subscribers = redis.client_list(_type="pubsub")
            assert len(subscribers) == 1, "one connection for all"
            assert subscribers[0]["sub"] == "3"
            await asyncio.to_thread(wait_until, lambda: _calm(container), "they cost little")
            for each in claimed:
                await asyncio.to_thread(finish, container, each, Completed(1))
            await asyncio.gather(*following)

    asyncio.run(everybody())
    assert all(each[-1] == "completed" for each in seen)
    wait_until(lambda: not redis.client_list(_type="pubsub"), "nobody watches any more")
    redis.close()


def test_streams_live_through_a_broken_connection(
    http: httpx.Client, container: CoreServices, valkey_server: ValkeyServer
) -> None:
    accepted = _accepted(http)
    claimed = claim(container, accepted["execution_id"])
    redis = Redis.from_url(valkey_server.url(0))
    with connect_sse(http, "GET", accepted["_links"]["stream"]) as source:
        events = _sent(source)
        assert [next(events).event for _ in range(3)] == ["created", "queued", "started"]
        wait_until(lambda: redis.client_list(_type="pubsub"), "it is subscribed")
        redis.client_kill_filter(_type="pubsub")

        def heard() -> bool:
            channel = f"celeriac:execution:{accepted['execution_id']}"
            return bool(redis.publish(channel, dumps({"delta": {"text": "again"}})))

        wait_until(heard, "it is subscribed again")
        assert next(events).event == "delta"
        finish(container, claimed, Completed(1))
        told = [event.event for event in events if event.event != "delta"]
        assert told == ["completed"]
    redis.close()


def _calm(container: CoreServices) -> bool:
    """Whether three seconds cost about as many looks and a look-up of the key."""
    before = _transactions(container)
    time.sleep(3)
    return _transactions(container) - before < 30


def _transactions(container: CoreServices) -> int:
    """Return how many statements the database has ended so far, ours among them."""
    query = text("SELECT xact_commit + xact_rollback FROM pg_stat_database"
                 " WHERE datname = current_database()")  # fmt: skip
    with container.database.autocommit() as connection:
        connection.execute(text("SELECT pg_stat_force_next_flush()"))
        return int(connection.execute(query).scalar_one())
