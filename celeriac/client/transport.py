"""Requests, their repetition and their errors."""

import time
from collections.abc import Collection, Mapping
from typing import Any, TypeVar
from urllib.parse import quote
from uuid import UUID, uuid4

import httpx

from celeriac.client.errors import ClientError, UnreachableError
from celeriac.wire import Wire

M = TypeVar("M", bound=Wire)

API = "/api/v1"
_PAUSES = (0.25, 0.5, 1.0)
"""Seconds between the tries of a request that may be repeated."""

_REPEATABLE = frozenset({429, 502, 503, 504})


def segment(reference: str | UUID) -> str:
    """Return an id or a name as one segment of a path, whatever characters it has."""
    return quote(str(reference), safe="")


class Transport:
    """Sends requests and makes errors of what comes back. Safe to share between threads.

    Reading is repeated when the server doesn't answer, and so is creating work, under an
    idempotency key; other changes are sent once.
    """

    def __init__(self, http: httpx.Client) -> None:
        """Send through `http`, which knows the address and the key."""
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
        """Send `body` under an idempotency key, so often as it takes to get an answer."""
        headers = {"Idempotency-Key": key or str(uuid4())}
        return model.model_validate_json(
            self.send("POST", path, body=body, headers=headers).content
        )

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
        """Return the answer of 2xx, or of a status in `accept`; raises ClientError.

        `body` is sent as JSON, `content` as it is. `answer_within` seconds replace the client's
        own bound for this request.
        """
        given = {name: value for name, value in (params or {}).items() if value is not None}
        timeout = self.http.timeout
        if answer_within is not None:
            timeout = httpx.Timeout(answer_within, connect=timeout.connect)
        request = self.http.build_request(
            method, path, json=body, content=content, params=given, headers=headers, timeout=timeout
        )
        repeatable = method == "GET" or "Idempotency-Key" in request.headers
        pauses = iter(_PAUSES if repeatable else ())
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
                if pause is None or response.status_code not in _REPEATABLE:
                    raise ClientError.of(response)
            time.sleep(pause)
