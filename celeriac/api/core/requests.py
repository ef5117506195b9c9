"""Routes: strict reading of JSON requests, idempotency keys, and the problems that follow."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any, TypeGuard, cast, get_args, get_origin

import orjson
from fastapi import HTTPException, Request
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import get_dependant
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.routing import compile_path

from celeriac.api.core.auth import Needs, admit, needs
from celeriac.api.core.responses import problem_responses
from celeriac.domain.errors import (
    CeleriacError,
    InvalidInputError,
    MalformedJsonError,
    TooLargeError,
)
from celeriac.domain.executions.model import Idempotency
from celeriac.kit.json_types import (
    BEYOND_64_BITS,
    INT64,
    MAX_DEPTH,
    JsonValue,
    has_more_values_than,
    is_deeper,
    loads,
    long_integers,
)
from celeriac.kit.words import counted

MAX_VALUES = 10_000
"""Maximum number of values and names in a body; enough for any specification."""

MAX_BULK_VALUES = 200_000
"""The same for requests with `BULK = True`, which contain data of any form. Parsing this many takes
about 60 ms, during which the process does nothing else."""

_SMALL = 16 * 1024
"""Bytes. Parsing a smaller body takes no longer than waking up a thread."""

MAX_KEYLESS_BYTES = 16 * 1024
"""The largest body of a request that needs no key."""


def parse(body: bytes, *, max_values: int = MAX_VALUES) -> JsonValue:
    """Return the JSON value of `body`.

    Raises MalformedJsonError, InvalidInputError, and TooLargeError for more than `max_values`
    values and names of fields.
    """
    if has_more_values_than(body, max_values):
        raise TooLargeError(
            f"The body has more than {max_values} values; send less at once.",
            field="body",
            limit=max_values,
        )
    try:
        value = loads(body)
    except (ValueError, RecursionError) as error:
        raise MalformedJsonError(f"The body is not valid JSON: {error}.") from error
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH and is_deeper(value, MAX_DEPTH):
        raise InvalidInputError(f"The body is nested deeper than {MAX_DEPTH} levels; flatten it.")
    if b"\\u0000" in body:
        path = _path_of_nul(value)
        if path is not None:
            raise InvalidInputError(
                "The NUL character can't be stored; remove it.",
                field=".".join(reversed(path)) or "body",
            )
    if any(number not in INT64 for number in long_integers(body)):
        raise InvalidInputError(f"The body holds {BEYOND_64_BITS}; send it as a text.")
    return value


def _path_of_nul(value: JsonValue) -> list[str] | None:
    """Return the path to the first NUL, from the inside out; None if there is none."""
    if isinstance(value, str):
        return [] if "\0" in value else None
    if isinstance(value, dict):
        if any("\0" in key for key in value):
            return []
        steps = ((key, inner) for key, inner in value.items())
    elif isinstance(value, list):
        steps = ((str(index), inner) for index, inner in enumerate(value))
    else:
        return None
    for step, inner in steps:
        path = _path_of_nul(inner)
        if path is not None:
            path.append(step)
            return path
    return None


class Parsing:
    """Parses bodies outside the event loop; large ones one after the other.

    Threads that compute share one processor: several at once would block the loop.
    """

    def __init__(self) -> None:
        """Belongs to one application, and so to one event loop."""
        self._turn = asyncio.Semaphore(1)

    async def __call__(self, body: bytes, max_values: int) -> JsonValue:
        """Return the value of a body; raises what `parse` raises."""
        if len(body) <= _SMALL:
            return parse(body, max_values=max_values)
        async with self._turn:
            return await run_in_threadpool(parse, body, max_values=max_values)


class _JsonRequest(Request):
    max_values = MAX_VALUES
    max_bytes: int | None = None
    """The limit of this route, if it is smaller than that of all."""
    _parsed: JsonValue

    async def stream(self) -> AsyncGenerator[bytes, None]:
        declared = self.headers.get("content-length", "0")
        self._check(int(declared) if declared.isdecimal() else 0)
        size = 0
        async for chunk in super().stream():
            size += len(chunk)
            self._check(size)
            yield chunk

    def _check(self, size: int) -> None:
        if self.max_bytes is not None and size > self.max_bytes:
            raise TooLargeError(
                f"The body may have {counted(self.max_bytes, 'byte')}.",
                field="body",
                limit=self.max_bytes,
            )

    async def body(self) -> bytes:
        try:
            return await super().body()
        except CeleriacError as error:
            # FastAPI passes on no other exceptions from reading the body
            raise HTTPException(400) from error

    async def json(self) -> JsonValue:
        if not hasattr(self, "_parsed"):
            body = await self.body()
            parsing = cast(Parsing, self.app.state.parsing)
            try:
                self._parsed = await parsing(body, self.max_values)
            except InvalidInputError as error:
                raise HTTPException(400) from error
        return self._parsed


class JsonRoute(APIRoute):
    """A route that checks the key first, reads its body with `parse` and knows its parameters.

    Its operation id is the name of its function. Its description names the problems that follow
    from its parameters: a key, a role, a body, an id in the path. `responses` adds the others.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        """Take FastAPI's options; a route that answers 204 returns None."""
        problems = problem_responses(*_problems(path, endpoint))
        options["responses"] = problems | (options.get("responses") or {})
        options["operation_id"] = options.get("operation_id") or endpoint.__name__
        if options.get("status_code") == 204:  # noqa: PLR2004 - HTTP's number
            options["response_class"] = Response
        super().__init__(path, endpoint, **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the route's handler, given requests that parse strictly."""
        handle = super().get_route_handler()
        known = dict(_parameters(self.dependant))
        needed = needs(self.dependant)
        max_values = _max_values(self)

        async def handle_strictly(request: Request) -> Response:
            if needed is not None:
                await admit(request, needed)
            _check_parameters(request, known)
            if self.body_field is not None:
                _refuse_other_media(request)
            strict = _JsonRequest(request.scope, request.receive)
            strict.max_values = max_values
            strict.max_bytes = MAX_KEYLESS_BYTES if needed is None else None
            return await handle(strict)

        return handle_strictly


def _check_parameters(request: Request, known: Mapping[str, bool]) -> None:
    """Raise InvalidInputError for a parameter that is unknown, or given more often than once."""
    given = Counter(name for name, _ in request.query_params.multi_items())
    for name, count in given.items():
        if name not in known:
            there_are = f"; there are: {', '.join(sorted(known))}" if known else ""
            raise InvalidInputError(f"There is no parameter {name!r} here{there_are}.", field=name)
        if count > 1 and not known[name]:
            raise InvalidInputError(
                f"The parameter {name!r} has several values; give it once.", field=name
            )


def _problems(path: str, endpoint: Callable[..., Any]) -> Iterator[int]:
    """Yield the statuses of the problems that a route with these parameters can answer with."""
    dependant = get_dependant(path=compile_path(path)[1], call=endpoint)
    needed = needs(dependant)
    if needed is None:
        return
    yield from (401, 421, 422, 429, 503)
    if dependant.body_params:
        yield from (400, 408, 413)
    if dependant.body_params or needed is not Needs.VIEWER:
        yield 403
    if "{" in path:
        yield 404


def _max_values(route: APIRoute) -> int:
    if route.body_field is None:
        return MAX_VALUES
    model = route.body_field.field_info.annotation
    models = (model, *get_args(model))  # the type of an optional body is a union
    bulk = any(getattr(each, "BULK", False) for each in models)
    return MAX_BULK_VALUES if bulk else MAX_VALUES


def _refuse_other_media(request: Request) -> None:
    headers = request.headers
    empty = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers
    media = headers.get("content-type", "").partition(";")[0].strip().lower()
    if not (empty or media == "application/json" or media.endswith("+json")):
        raise InvalidInputError(
            "The body must be JSON; send it with `Content-Type: application/json`.",
            field="Content-Type",
        )


def _is_model(kind: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _parameters(dependant: Dependant) -> Iterator[tuple[str, bool]]:
    """Yield each parameter, and whether it may be given several times."""
    for field in dependant.query_params:
        kind = field.field_info.annotation
        if _is_model(kind):
            for name, each in kind.model_fields.items():
                yield name, _is_many(each.annotation)
        else:
            yield field.alias, _is_many(kind)
    for inner in dependant.dependencies:
        yield from _parameters(inner)


def _is_many(kind: object) -> bool:
    """Whether a type is that of a list, also as one of several types."""
    origin = get_origin(kind)
    if origin in (list, Sequence):
        return True
    return origin is not None and any(map(_is_many, get_args(kind)))


REPLAYED = "Idempotent-Replayed"


def idempotency(request: Request, key: str | None, body: BaseModel | None) -> Idempotency | None:
    """Return the key with the fingerprint of the request, or None if no key was sent.

    The fingerprint covers method, path and the parsed body: spaces, the order of keys and explicit
    defaults make no difference. Takes long for a large body.
    """
    if key is None:
        return None
    found = hashlib.sha256(f"{request.method}\n{request.url.path}\n".encode())
    found.update(orjson.dumps(body, default=_fields, option=orjson.OPT_SORT_KEYS))
    return Idempotency(key, found.hexdigest())


def _fields(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return dict(value)
    return str(value)  # an amount of money
