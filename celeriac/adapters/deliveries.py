"""Sends deliveries to webhooks over HTTP, many at once."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from http.cookiejar import DefaultCookiePolicy

import httpx2

from celeriac.domain.webhooks import Reception
from celeriac.kit.loop import LoopTask, LoopThread
from celeriac.kit.outbound import OutboundGuard, OutboundRefusedError, guarded_client, refusal
from celeriac.logs.redact import redact_text
from celeriac.services.webhooks.send import SLOTS, Outgoing
from celeriac.version import __version__

_SECONDS = 15.0
_BODY_SECONDS = 3.0
_CLOSE_SECONDS = 1.0
_MOST_ANSWER_BYTES = 65_536
_MOST_READ_BYTES = 1_000_000
"""More than is kept: what a server sends in one piece may exceed that."""

_MOST_ERROR_CHARACTERS = 500


class DeliveryPost:
    """Posts deliveries on an event loop of its own; see `services.webhooks.send.Post`.

    Each takes 15 seconds at most, connects to an address that the guard allows, and follows no
    redirects. Up to 64 KiB of the answer are kept, with secrets masked.
    """

    def __init__(self, guard: OutboundGuard, *, seconds: float = _SECONDS) -> None:
        """Start nothing yet. Use it after a fork, never before."""
        self._guard = guard
        self._seconds = seconds
        self._loop: LoopThread | None = None
        self._client: httpx2.AsyncClient | None = None
        self._of: asyncio.AbstractEventLoop | None = None

    def __call__(self, outgoing: Outgoing, done: Callable[[Reception], None]) -> None:
        """Start to send; `done` is called from the loop's thread."""
        if self._loop is None:
            self._loop = LoopThread("webhooks")
        task = self._loop.start(self._send(outgoing))
        task.on_end(lambda: done(_outcome(task)))

    def close(self) -> None:
        """Close the connections, and end what is being sent."""
        if self._loop is None:
            return
        if self._client is not None:
            self._loop.start(self._client.aclose()).wait(_CLOSE_SECONDS)
        self._loop.close()

    def _opened(self) -> httpx2.AsyncClient:
        """Return the client of the running loop, to which its connections belong."""
        loop = asyncio.get_running_loop()
        if self._client is None or self._of is not loop:
            self._of = loop
            self._client = guarded_client(
                self._guard,
                timeout_seconds=self._seconds,
                max_bytes=_MOST_READ_BYTES,
                max_connections=SLOTS,
                headers={"user-agent": f"celeriac/{__version__}"},
            )
            # receivers of different workspaces share the client: it keeps no cookies
            self._client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        return self._client

    async def _send(self, outgoing: Outgoing) -> Reception:
        began = time.monotonic()
        fault = refusal(self._guard, outgoing.url)
        if fault is not None:
            return Reception(None, f"The URL {fault}.", refused=True)
        try:
            async with asyncio.timeout(self._seconds):
                status, answer = await self._posted(outgoing)
        except OutboundRefusedError as error:
            return Reception(None, _clipped(error), refused=True)
        except TimeoutError:
            return Reception(
                None,
                f"The receiver did not answer within {self._seconds:g} s.",
                seconds=time.monotonic() - began,
            )
        except (httpx2.HTTPError, httpx2.InvalidURL, UnicodeError) as error:
            return Reception(None, _clipped(error), seconds=time.monotonic() - began)
        return Reception(status, _fault(status), answer, time.monotonic() - began)

    async def _posted(self, outgoing: Outgoing) -> tuple[int, str]:
        request = self._opened().stream(
            "POST", outgoing.url, content=outgoing.body, headers=dict(outgoing.headers)
        )
        kept = bytearray()
        async with request as response:
            # the status is known, and decides; a body that breaks off or never ends changes nothing
            with suppress(httpx2.HTTPError, TimeoutError):
                async with asyncio.timeout(_BODY_SECONDS):
                    async for part in response.aiter_raw():
                        kept += part
                        if len(kept) >= _MOST_ANSWER_BYTES:
                            break
        text = bytes(kept[:_MOST_ANSWER_BYTES]).decode("utf-8", "replace")
        return response.status_code, redact_text(text)


def _outcome(task: LoopTask[Reception]) -> Reception:
    """Return the result of a task that has ended."""
    try:
        return task.result()
    except Exception as error:  # noqa: BLE001 - whatever it is, the delivery is tried again
        return Reception(None, _clipped(error))
    except asyncio.CancelledError:
        return Reception(None, "The sender was stopped.")


def _clipped(error: BaseException) -> str:
    text = redact_text(f"{type(error).__name__}: {error}")
    return text[:_MOST_ERROR_CHARACTERS]


_REDIRECT = range(300, 400)
_ACCEPTED = range(200, 300)


def _fault(status: int) -> str | None:
    if status in _ACCEPTED:
        return None
    if status in _REDIRECT:
        return f"The receiver answered with {status}; redirects are not followed."
    return f"The receiver answered with {status}."
