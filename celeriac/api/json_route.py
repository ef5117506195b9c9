"""Routes that read requests strictly.

Parameters that a route doesn't have are refused: a filter with a typing error must not return
everything. Of JSON bodies, beyond the grammar, what can't be stored or would be changed on the way:
characters that PostgreSQL can't hold, integers beyond 64 bits, nesting without end.
"""

from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from fastapi import HTTPException, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.responses import Response

from celeriac.domain.errors import InvalidInputError, MalformedJsonError
from celeriac.kit.jsontypes import (
    BEYOND_64_BITS,
    MAX_DEPTH,
    JsonValue,
    is_deeper,
    loads,
    refuse_big_integers,
)


def parse(body: bytes) -> JsonValue:
    """Return the JSON value of `body`; raises MalformedJsonError, InvalidInputError."""
    try:
        refuse_big_integers(body)  # some are too long to be decoded at all
        value = loads(body)
    except TypeError as error:
        raise InvalidInputError(f"The body holds {BEYOND_64_BITS}; send it as a text.") from error
    except (ValueError, RecursionError) as error:
        raise MalformedJsonError(f"The body is not valid JSON: {error}.") from error
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH and is_deeper(value, MAX_DEPTH):
        raise InvalidInputError(f"The body is nested deeper than {MAX_DEPTH} levels; flatten it.")
    if b"\\u0000" in body:
        _refuse_nul(value, [])
    return value


def _refuse_nul(value: JsonValue, path: list[str]) -> None:
    if isinstance(value, str) and "\0" in value:
        raise InvalidInputError(
            "The NUL character can't be stored; remove it.", field=".".join(path) or "body"
        )
    if isinstance(value, dict):
        for key, inner in value.items():
            _refuse_nul(key, path)
            _refuse_nul(inner, [*path, key])
    if isinstance(value, list):
        for index, inner in enumerate(value):
            _refuse_nul(inner, [*path, str(index)])


class _JsonRequest(Request):
    _parsed: JsonValue

    async def json(self) -> JsonValue:
        if not hasattr(self, "_parsed"):
            try:
                self._parsed = parse(await self.body())
            except InvalidInputError as error:
                # FastAPI lets nothing else out of its reading of the body
                raise HTTPException(400) from error
        return self._parsed


class JsonRoute(APIRoute):
    """A route that reads its body with `parse` and knows all its parameters."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the route's handler, given requests that parse strictly."""
        handle = super().get_route_handler()
        known = frozenset(_parameters(self.dependant))

        async def handle_strictly(request: Request) -> Response:
            for name in request.query_params:
                if name not in known:
                    there_are = f"; there are: {', '.join(sorted(known))}" if known else ""
                    raise InvalidInputError(
                        f"There is no parameter {name!r} here{there_are}.", field=name
                    )
            if self.body_field is not None:
                _refuse_other_media(request)
            return await handle(_JsonRequest(request.scope, request.receive))

        return handle_strictly


def _refuse_other_media(request: Request) -> None:
    headers = request.headers
    empty = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers
    media = headers.get("content-type", "").partition(";")[0].strip().lower()
    if not (empty or media == "application/json" or media.endswith("+json")):
        raise InvalidInputError(
            "The body must be JSON; send it with `Content-Type: application/json`.",
            field="Content-Type",
        )


def _parameters(dependant: Dependant) -> Iterator[str]:
    yield from (field.alias for field in dependant.query_params)
    for inner in dependant.dependencies:
        yield from _parameters(inner)
