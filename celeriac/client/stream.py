"""Following an execution over Server-Sent Events, across broken connections."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import httpx
from httpx_sse import ServerSentEvent, SSEError, connect_sse

from celeriac.client.errors import ClientError, UnreachableError
from celeriac.domain.executions.events import TERMINAL_EVENTS
from celeriac.kit.json_types import loads
from celeriac.wire import Event, ItemEnded, LogLine

_NO_CONTENT = 204
_DELTA = "delta"
_ITEM_ENDED = "item_ended"
_LINE, _END = "line", "end"
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


T = TypeVar("T")


class Following(ABC, Generic[T]):
    """What a stream sends, resumed after the last event whenever the connection breaks."""

    def __init__(
        self,
        http: httpx.Client,
        path: str,
        *,
        after: str | None,
        params: Mapping[str, str] | None = None,
        on_away: Callable[[bool], None] = lambda _: None,
    ) -> None:
        """Begin after the event with the id `after`, None for the first.

        `on_away` is called with True when the server stops answering and with False when it answers
        again, once for each change.
        """
        self._http = http
        self._on_away = on_away
        self._is_away = False
        self._path = path
        self._last_id = after
        self._params = dict(params or {})
        self.ended = False
        """Whether the execution has ended and all was yielded."""

    @abstractmethod
    def _read(self, sent: ServerSentEvent) -> T | None:
        """Return what was sent, None for nothing to yield; set `ended` at the last event."""

    def follow(self, deadline: float | None) -> Iterator[T]:
        """Yield what is sent until the execution has ended.

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

    def _once(self, deadline: float | None) -> Iterator[T]:
        silence = _SILENCE_SECONDS
        if deadline is not None:
            silence = min(silence, max(deadline - time.monotonic(), 0.05))
        timeout = httpx.Timeout(10.0, read=silence)
        with connect_sse(
            self._http,
            "GET",
            self._path,
            params=self._params,
            headers={} if self._last_id is None else {"Last-Event-ID": self._last_id},
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
                    # an event without an id has that of the one before, none if it is the first
                    self._last_id = sent.id or self._last_id
                    found = self._read(sent)
                    if found is not None:
                        yield found
                if self.ended or _passed(deadline):
                    return


class Stream(Following[Event | ItemEnded | Delta]):
    """The events of one execution or run, from number `after`.

    With `items` also the ends of a run's items follow.
    """

    def __init__(
        self,
        http: httpx.Client,
        path: str,
        *,
        after: int,
        items: bool = False,
        on_away: Callable[[bool], None] = lambda _: None,
    ) -> None:
        """Begin after event number `after`; see `Following`."""
        params = {"items": "true"} if items else {}
        super().__init__(http, path, after=str(after), params=params, on_away=on_away)

    def _read(self, sent: ServerSentEvent) -> Event | ItemEnded | Delta:
        if sent.event == _DELTA:
            return Delta(loads(sent.data))
        if sent.event == _ITEM_ENDED:
            return ItemEnded.model_validate_json(sent.data)
        event = Event.model_validate_json(sent.data)
        self.ended = event.type in TERMINAL_EVENTS
        return event


class LogStream(Following[LogLine]):
    """The log lines of one execution."""

    def _read(self, sent: ServerSentEvent) -> LogLine | None:
        self.ended = sent.event == _END
        return LogLine.model_validate_json(sent.data) if sent.event == _LINE else None


def _passed(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() >= deadline
