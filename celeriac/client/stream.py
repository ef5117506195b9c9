"""Following an execution over Server-Sent Events, across broken connections."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from httpx_sse import ServerSentEvent, SSEError, connect_sse

from celeriac.client.errors import ClientError, UnreachableError
from celeriac.domain.executions.events import TERMINAL_EVENTS
from celeriac.kit.json_types import loads
from celeriac.wire import Event, ItemEnded

_NO_CONTENT = 204
_DELTA = "delta"
_ITEM_ENDED = "item_ended"
_UNAVAILABLE = frozenset({502, 503, 504})
_SILENCE_SECONDS = 45.0
"""The server sends a comment every 15 seconds at least."""
_RECONNECT_SECONDS = 60.0
"""How long a stream tries to reconnect to a server that doesn't answer."""
_PAUSE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of live output. It is not stored, and may be missing after a reconnection."""

    data: Mapping[str, Any]


class Stream:
    """The events of one execution, resumed after the last one whenever the connection breaks."""

    def __init__(
        self,
        http: httpx.Client,
        path: str,
        *,
        after: int,
        items: bool = False,
        on_away: Callable[[bool], None] = lambda _: None,
    ) -> None:
        """Begin after event number `after`; with `items` also the ends of a run's items follow.

        `on_away` is called with True when the server stops answering and with False when it answers
        again, once for each change.
        """
        self._http = http
        self._on_away = on_away
        self._is_away = False
        self._path = path
        self._last_id = str(after)
        self._params = {"items": "true"} if items else {}
        self.ended = False
        """Whether the execution has ended and all its events were yielded."""

    def follow(self, deadline: float | None) -> Iterator[Event | ItemEnded | Delta]:
        """Yield events and output until the execution has ended.

        Ends without an error after `deadline` (`time.monotonic()` seconds). Raises ClientError.
        """
        alive = time.monotonic()
        while not self.ended and not _passed(deadline):
            before = self._last_id
            try:
                yield from self._once(deadline)
            except (httpx.TransportError, SSEError) as error:
                failure: ClientError | None = UnreachableError(str(self._http.base_url), error)
            except ClientError as error:
                if error.status not in _UNAVAILABLE:
                    raise
                failure = error
            else:
                failure = None
            if failure is None or self._last_id != before:
                alive = time.monotonic()
            elif time.monotonic() - alive > _RECONNECT_SECONDS:
                raise failure
            if failure is not None and not _passed(deadline):
                self._say_away(away=True)
            if not self.ended:
                time.sleep(_PAUSE_SECONDS)

    def _say_away(self, *, away: bool) -> None:
        if away is not self._is_away:
            self._is_away = away
            self._on_away(away)

    def _once(self, deadline: float | None) -> Iterator[Event | ItemEnded | Delta]:
        silence = _SILENCE_SECONDS
        if deadline is not None:
            silence = min(silence, max(deadline - time.monotonic(), 0.05))
        timeout = httpx.Timeout(10.0, read=silence)
        with connect_sse(
            self._http,
            "GET",
            self._path,
            params=self._params,
            headers={"Last-Event-ID": self._last_id},
            timeout=timeout,
        ) as source:
            if source.response.status_code == _NO_CONTENT:
                self.ended = True
                self._say_away(away=False)
                return
            if source.response.is_error:
                source.response.read()
                raise ClientError.of(source.response)
            self._say_away(away=False)
            for sent in source.iter_sse():
                if sent.data:  # httpx-sse yields comments as events without data
                    yield self._read(sent)
                if self.ended or _passed(deadline):
                    return

    def _read(self, sent: ServerSentEvent) -> Event | ItemEnded | Delta:
        # an event without an id has that of the event before, none if it is the first
        self._last_id = sent.id or self._last_id
        if sent.event == _DELTA:
            return Delta(loads(sent.data))
        if sent.event == _ITEM_ENDED:
            return ItemEnded.model_validate_json(sent.data)
        event = Event.model_validate_json(sent.data)
        self.ended = event.type in TERMINAL_EVENTS
        return event


def _passed(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() >= deadline
