"""Items that are no task messages, as any program with access to the broker may push them."""

import base64
import json
import zlib
from collections.abc import Iterator, Mapping
from typing import Any
from uuid import uuid4

EXECUTE = "celeriac.tasks.execution.run"
PING = "celeriac.tasks.monitoring.ping"


def envelope(
    *,
    task: Any = PING,
    body: Any = ((), {}, None),
    headers: Mapping[str, Any] | None = None,
    properties: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return a usual message of the Redis transport with other headers and properties."""
    task_id = str(uuid4())
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return {
        "body": base64.b64encode(text).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py", "task": task, "id": task_id, "shadow": None, "eta": None,
            "expires": None, "group": None, "group_index": None, "retries": 0,
            "timelimit": [None, None], "root_id": task_id, "parent_id": None,
            "argsrepr": "()", "kwargsrepr": "{}", "origin": "test", "ignore_result": True,
            "stamped_headers": None, "stamps": {}, **(headers or {}),
        },
        "properties": {
            "correlation_id": task_id, "reply_to": str(uuid4()), "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "task_execution"},
            "priority": 0, "body_encoding": "base64", "delivery_tag": str(uuid4()),
            **(properties or {}),
        },
    }  # fmt: skip


def _with(name: str, value: Any, whole: dict[str, Any] | None = None) -> dict[str, Any]:
    return {**(whole or envelope()), name: value}


def _without(whole: dict[str, Any], *path: str) -> dict[str, Any]:
    place = whole
    for name in path[:-1]:
        place = place[name]
    del place[path[-1]]
    return whole


def _envelopes() -> Iterator[tuple[str, dict[str, Any]]]:
    for name in ("body", "headers", "properties", "content-type"):
        yield f"no {name}", _without(envelope(), name)
        yield f"{name} null", _with(name, None)
        yield f"{name} a number", _with(name, 5)
        yield f"{name} a list", _with(name, [1])
    for name in ("delivery_info", "delivery_tag"):
        yield f"no {name}", _without(envelope(), "properties", name)
        yield f"{name} null", envelope(properties={name: None})
        yield f"{name} a list", envelope(properties={name: [1]})
    yield "delivery_tag half a character", envelope(properties={"delivery_tag": "\ud800"})
    yield "no exchange", envelope(properties={"delivery_info": {"routing_key": "task_execution"}})
    yield "no routing key", envelope(properties={"delivery_info": {"exchange": ""}})
    yield (
        "routing key a list",
        envelope(properties={"delivery_info": {"exchange": "", "routing_key": [1]}}),
    )
    yield "unknown body encoding", envelope(properties={"body_encoding": "rot13"})
    yield "body encoding a list", envelope(properties={"body_encoding": []})
    yield "body not base64", _with("body", "%%%")
    yield (
        "unknown content encoding",
        _with("content-encoding", "klingon", _with("content-type", "application/text")),
    )
    yield "content encoding a number", _with("content-encoding", 5)
    yield "unknown content type", _with("content-type", "application/x-nothing")
    pickled = envelope(body=b"cos\nsystem\n(S'true'\ntR.")
    yield "pickle", _with("content-type", "application/x-python-serialize", pickled)
    yield "compressed with nothing known", envelope(headers={"compression": "arj"})
    bomb = zlib.compress(b"[" * 20_000_000, 9)
    yield "compressed bomb", envelope(body=bomb, headers={"compression": "application/x-gzip"})
    yield "compressed garbage", envelope(headers={"compression": "application/x-gzip"})
    yield "headers without an id", _without(envelope(), "headers", "id")
    for name, values in _HEADERS.items():
        for value in values:
            yield f"header {name}: {value!r}", envelope(headers={name: value})


_HEADERS: Mapping[str, tuple[Any, ...]] = {
    "task": (None, 5, [], {}),
    "id": (None, 5, [], {}, "", "\ud800"),
    "timelimit": (5, "a", [1], ["a", "b"], {"a": 1}),
    "retries": ("a", []),
    "eta": (5, "yesterday", []),
    "expires": ([], "yesterday", {}),
    "stamps": (5, [1]),
    "stamped_headers": (5, {"a": 1}),
    "shadow": (5, []),
    "group": (5, []),
    "root_id": ({},),
    "ignore_result": ([1],),
}


def _bodies() -> Iterator[tuple[str, Any]]:
    values: tuple[Any, ...] = (None, 5, "text", [], [1, 2], [1, 2, 3], [[], {}], {}, True)
    for value in values:
        yield f"body {json.dumps(value)}", value
    yield "args null", [None, {}, None]
    yield "args an object", [{}, {}, None]
    yield "kwargs a list", [[], [], None]
    yield "kwargs null", [[], None, None]
    yield "embed a list", [[], {}, [1]]
    yield "embed a number", [[], {}, 5]
    yield "callbacks a number", [[], {}, {"callbacks": 5}]
    yield "chain of numbers", [[], {}, {"chain": [1, 2]}]
    yield "chord a number", [[], {}, {"chord": 5}]


def broken_items() -> dict[str, bytes]:
    """Return raw items for a queue's list, by what is wrong with each. None of them is a task."""
    items: dict[str, bytes] = {
        "garbage": b"garbage",
        "empty": b"",
        "bytes that are no UTF-8": b"\xff\xfe\x00garbage\x80",
        "half a JSON text": b'{"body": "',
        "number": b"5",
        "null": b"null",
        "list": b"[]",
        "text": b'"text"',
        "true": b"true",
        "NaN": b"NaN",
        "empty object": b"{}",
        "deeply nested": b"[" * 100_000,
        "an unknown type": b'{"__type__": "datetime", "__value__": 5}',
        "huge garbage": b"x" * 20_000_000,
        "huge text": json.dumps("x" * 20_000_000).encode(),
        "pickle": b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00\x8c\x01a\x94.",
    }
    for name, whole in _envelopes():
        items[name] = json.dumps(whole).encode()
    for name, body in _bodies():
        items[name] = json.dumps(envelope(body=body)).encode()
    items["body of bytes"] = json.dumps(envelope(body=b"\xff\xfe")).encode()
    items["body deeply nested"] = json.dumps(envelope(body=b"[" * 100_000)).encode()
    items["body an unknown type"] = json.dumps(
        envelope(body={"__type__": "datetime", "__value__": 5})
    ).encode()
    items["body empty"] = json.dumps(envelope(body=b"")).encode()
    return items


OLD_PROTOCOL: Mapping[str, Any] = {
    "old protocol without an id": {"task": PING, "args": [], "kwargs": {}},
    "old protocol, args a number": {"task": PING, "id": "1", "args": 5, "kwargs": {}},
    "old protocol, kwargs a list": {"task": PING, "id": "1", "args": [], "kwargs": [1]},
    "old protocol, task a list": {"task": [1], "id": "1", "args": [], "kwargs": {}},
    "old protocol, id a list": {"task": PING, "id": [1], "args": [], "kwargs": {}},
    "old protocol, limits of text": {
        "task": PING, "id": "1", "args": [], "kwargs": {}, "timelimit": ["a", "b"],
    },
}  # fmt: skip
"""Bodies of messages without headers, as Celery 3 wrote them."""


def old_protocol_items() -> dict[str, bytes]:
    """Return raw items of protocol 1 that are no tasks."""
    return {
        name: json.dumps(_with("headers", {}, envelope(body=body))).encode()
        for name, body in OLD_PROTOCOL.items()
    }
