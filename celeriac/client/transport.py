"""Requests, their retries and their errors."""

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from decimal import Decimal
from typing import Any, TypeVar
from urllib.parse import quote
from uuid import UUID, uuid4

import httpx
from pydantic import BaseModel

from celeriac import wire
from celeriac.client.errors import ClientError, UnreachableError
from celeriac.wire import Wire

M = TypeVar("M", bound=Wire)

API = "/api/v1"
_PAUSES = (0.25, 0.5, 1.0)
"""Seconds between the tries of a request that may be retried."""
_RETRIED = frozenset({429, 502, 503, 504})
_PAGE = 100


def path(*segments: str | UUID) -> str:
    """Return a path of the API; each segment may contain any characters."""
    return "/".join((API, *(quote(str(segment), safe="") for segment in segments)))


def given(**values: Any) -> dict[str, Any]:
    """Return the values that are not None, as JSON has them."""
    return {name: _as_json(value) for name, value in values.items() if value is not None}


def _as_json(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, date):
        return value.isoformat()
    return str(value) if isinstance(value, UUID | Decimal) else value


class Transport:
    """Sends requests and raises errors. Safe to share between threads.

    If the server doesn't answer, requests that read or that have an idempotency key are retried.
    Other changes are sent once.
    """

    def __init__(self, http: httpx.Client) -> None:
        """Use `http`, which has the address and the key."""
        self.http = http

    def get(self, model: type[M], path: str, params: Mapping[str, Any] | None = None) -> M:
        """Return the resource at `path`."""
        return model.model_validate_json(self.send("GET", path, params=params).content)

    def post(self, model: type[M], path: str, body: Any) -> M:
        """Send `body`, once."""
        return model.model_validate_json(self.send("POST", path, body=body).content)

    def patch(self, model: type[M], path: str, body: Any) -> M:
        """Send a change, once."""
        return model.model_validate_json(self.send("PATCH", path, body=body).content)

    def create_work(self, model: type[M], path: str, body: Any, key: str | None) -> M:
        """Send `body` with an idempotency key, which is random if `key` is None."""
        headers = {"Idempotency-Key": key or str(uuid4())}
        return model.model_validate_json(
            self.send("POST", path, body=body, headers=headers).content
        )

    def pages(
        self, model: type[M], path: str, params: Mapping[str, Any] | None = None
    ) -> Iterator[M]:
        """Yield the items of all pages of a list; each page is read when it is needed."""
        cursor: str | None = None
        while True:
            asked = {"limit": _PAGE, **(params or {}), "cursor": cursor}
            page = self.get(wire.Page[model], path, asked)  # type: ignore[valid-type]
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return

    def send(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        content: bytes | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        accept: Collection[int] = (),
        answer_within: float | None = None,
    ) -> httpx.Response:
        """Return a response with 2xx or a status in `accept`. Raises ClientError.

        `body` is sent as JSON, `content` as it is. `answer_within` is this request's time-out in
        seconds, instead of the client's.
        """
        given = {name: value for name, value in (params or {}).items() if value is not None}
        timeout = self.http.timeout
        if answer_within is not None:
            timeout = httpx.Timeout(answer_within, connect=timeout.connect)
        request = self.http.build_request(
            method, path, json=body, content=content, params=given, headers=headers, timeout=timeout
        )
        retriable = method == "GET" or "Idempotency-Key" in request.headers
        pauses = iter(_PAUSES if retriable else ())
        while True:
            pause = next(pauses, None)
            try:
                response = self.http.send(request)
            except httpx.TransportError as error:
                if pause is None:
                    raise UnreachableError(str(self.http.base_url), error) from error
            else:
                if response.is_success or response.status_code in accept:
                    return response
                if pause is None or response.status_code not in _RETRIED:
                    raise ClientError.of(response)
            time.sleep(pause)

    @contextmanager
    def reading(
        self, path: str, params: Mapping[str, Any] | None = None
    ) -> Iterator[httpx.Response]:
        """Yield a response with 2xx, whose body is read in pieces. Raises ClientError."""
        given = {name: value for name, value in (params or {}).items() if value is not None}
        try:
            with self.http.stream("GET", path, params=given) as response:
                if response.is_error:
                    response.read()
                    raise ClientError.of(response)
                yield response
        except httpx.TransportError as error:
            raise UnreachableError(str(self.http.base_url), error) from error


class Resource:
    """A part of the client, such as `client.tasks`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
