"""Receivers of webhooks on this machine, and a sender for tests."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from celeriac.adapters.deliveries import DeliveryPost
from celeriac.db.engine import Database
from celeriac.domain.webhooks import SigningKeys, signature
from celeriac.kit.outbound import OutboundGuard
from celeriac.services.webhooks.messages import Messages
from celeriac.services.webhooks.send import Post, Sender
from tests.support.core import Core
from tests.support.ends import endpoint, rows
from tests.support.http_server import serving

HERE = OutboundGuard(hosts=frozenset({"127.0.0.1"}))
KEYS = SigningKeys("a key of tests alone: 0123456789abcdef")
PUBLIC_URL = "https://celeriac.example"


@dataclass(frozen=True)
class Got:
    """A request that a receiver got."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float = field(default_factory=time.time)
    """When it came, in seconds since the epoch."""

    @property
    def id(self) -> str:
        """The id of the message."""
        return self.headers["webhook-id"]

    def verify(self, secret: str) -> None:
        """Assert that it is signed with `secret`."""
        at = int(self.headers["webhook-timestamp"])
        assert self.headers["webhook-signature"] == signature(secret, self.id, at, self.body)


@dataclass
class Receiver:
    """A server whose paths answer as their names say."""

    url: str = ""
    got: list[Got] = field(default_factory=list)
    status: int = 204
    """What `/ok` answers with."""
    text: str = ""
    most: Counter[str] = field(default_factory=Counter)
    """The most requests at once, by path."""
    release: threading.Event = field(default_factory=threading.Event)
    """Lets `/never` answer."""
    _waiting: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(100))
    _now: Counter[str] = field(default_factory=Counter)

    def ids(self, path: str | None = None) -> list[str]:
        """Return the ids of the messages in the order in which they came."""
        return [each.id for each in self.got if path in (None, each.path)]

    def healthy(self) -> list[Got]:
        """Return the requests that were answered as they should be."""
        return [each for each in self.got if each.path.startswith("/ok")]

    def app(self) -> Starlette:
        async def take(request: Request) -> Response:
            path = request.url.path
            self.got.append(Got(path, dict(request.headers), await request.body()))
            self._now[path] += 1
            self.most[path] = max(self.most[path], self._now[path])
            try:
                return await self._answer(path)
            finally:
                self._now[path] -= 1

        return Starlette(routes=[Route("/{path:path}", take, methods=["POST", "GET"])])

    async def _answer(self, path: str) -> Response:
        if path.startswith("/never"):
            await asyncio.get_running_loop().run_in_executor(self._waiting, self.release.wait)
        if path == "/away":
            return RedirectResponse("http://169.254.169.254/latest", status_code=307)
        if path == "/endless":
            return StreamingResponse(_endless())
        if path == "/cookie":
            return Response(status_code=204, headers={"set-cookie": "session=secret; Path=/"})
        if path.startswith("/status/"):
            return Response(self.text, status_code=int(path.rpartition("/")[2]))
        await asyncio.sleep(0.01)
        return Response(self.text or None, status_code=self.status)

    def clear(self) -> None:
        """Forget what came, and answer 204 again."""
        self.got.clear()
        self.most.clear()
        self.status, self.text = 204, ""
        self.release.clear()


async def _endless() -> Any:
    while True:
        yield b"x" * 10_000
        await asyncio.sleep(0)


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Run a receiver."""
    receiver = Receiver()
    with serving(receiver.app()) as url:
        receiver.url = url
        try:
            yield receiver
        finally:
            receiver.release.set()
            receiver._waiting.shutdown()


@contextmanager
def sending(
    database: Database,
    *,
    guard: OutboundGuard = HERE,
    seconds: float = 15.0,
    post: Callable[[DeliveryPost], Post] | None = None,
) -> Iterator[Sender]:
    """A sender on `database`."""
    sends = DeliveryPost(guard, seconds=seconds)
    chosen = sends if post is None else post(sends)
    sender = Sender(database, KEYS, Messages(PUBLIC_URL), chosen)
    try:
        yield sender
    finally:
        sender.stop()
        sends.close()


def add_endpoint(core: Core, url: str, *events: str) -> UUID:
    """Add an endpoint to the workspace of the core's actor."""
    made = endpoint(core, events)
    core.execute("UPDATE webhook_endpoints SET url = :url WHERE id = :id", url=url, id=made)
    return made


def add_deliveries(core: Core, endpoint_id: UUID, count: int) -> None:
    """Add deliveries of tests to an endpoint."""
    core.execute(
        "INSERT INTO deliveries (id, workspace_id, lane, endpoint_id, event, data)"
        " SELECT celeriac_uuid7(), :workspace, :id, :id, 'webhook.test', '{}'"
        " FROM generate_series(1, :count)",
        workspace=core.actor.workspace_id,
        id=endpoint_id,
        count=count,
    )


def delivery_of(core: Core, columns: str = "*") -> Any:
    """Return the only delivery."""
    (row,) = rows(core, f"SELECT {columns} FROM deliveries")
    return row


def pass_time(core: Core, seconds: float) -> None:
    """Let time pass for deliveries."""
    core.execute(
        "UPDATE deliveries SET available_at = available_at - make_interval(secs => :seconds),"
        " lease_until = lease_until - make_interval(secs => :seconds)",
        seconds=seconds,
    )
