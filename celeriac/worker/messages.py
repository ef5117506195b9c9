"""Checks whether a message is a task that Celery can run.

Celery trusts what it receives. A header or a body of another shape raises in its consumer, which
ends the worker, or in a thread of its pool, and then the message is never acknowledged.
"""

from collections.abc import Mapping
from typing import Any

from celeriac.kit.json_types import has_utf8

_Kinds = Mapping[str, tuple[type, ...]]

_NONE = type(None)
_TEXTS = (
    "shadow", "eta", "expires", "group", "root_id", "parent_id", "lang", "origin", "argsrepr",
    "kwargsrepr", "meth",
)  # fmt: skip
_HEADERS: _Kinds = {
    **dict.fromkeys(_TEXTS, (str, _NONE)),
    **dict.fromkeys(("retries", "group_index", "replaced_task_nesting"), (int, _NONE)),
    "ignore_result": (bool, _NONE),
    "stamps": (dict, _NONE),
    "stamped_headers": (list, _NONE),
    "groups": (list, _NONE),
}
_SIGNATURES = ("callbacks", "errbacks", "chain")
_EMBEDDED: _Kinds = {
    **dict.fromkeys(_SIGNATURES, (list, _NONE)),
    "chord": (dict, str, _NONE),
}
_LIMITS = 2


def name_of(message: Any) -> tuple[str | None, str | None]:
    """Return the name of a message's task, or None and what is wrong with it.

    Reads the body only if the headers name no task, as in messages of Celery 3.
    """
    headers = message.headers
    if not isinstance(headers, Mapping):
        return None, f"its headers are a {type(headers).__name__}"
    fields = headers
    if "task" not in headers:
        fields, fault = _decoded(message)
        if fault is not None:
            return None, fault
        if not isinstance(fields, Mapping) or "task" not in fields:
            return None, "it names no task"
    for field in ("task", "id"):
        fault = _text_fault(field, fields.get(field))
        if fault is not None:
            return None, fault
    return str(fields["task"]), None


def fault_of(message: Any) -> str | None:
    """Return why a message of a known task can't be run, or None.

    Decodes the body; kombu caches the result for Celery.
    """
    payload, fault = _decoded(message)
    if fault is not None:
        return fault
    fields = message.headers if "task" in message.headers else payload
    return _headers_fault(fields) or _body_fault(payload)


def _decoded(message: Any) -> tuple[Any, str | None]:
    try:
        return message.payload, None
    except Exception as error:  # noqa: BLE001 - decoders raise what they like
        return None, f"its body can't be read: {type(error).__name__}: {error}"


def _kind_fault(fields: Mapping[str, Any], kinds: _Kinds) -> str | None:
    for name, allowed in kinds.items():
        if not isinstance(fields.get(name), allowed):
            return f"its {name} is a {type(fields.get(name)).__name__}"
    return None


def _headers_fault(fields: Mapping[str, Any]) -> str | None:
    if fault := _kind_fault(fields, _HEADERS):
        return fault
    limits = fields.get("timelimit")
    if limits is None:
        return None
    if not isinstance(limits, (list, tuple)) or len(limits) != _LIMITS:
        return "its timelimit is no pair"
    if not all(limit is None or isinstance(limit, (int, float)) for limit in limits):
        return "its timelimit holds what is no number"
    return None


def _body_fault(payload: Any) -> str | None:
    if isinstance(payload, Mapping) and "args" in payload:
        args, kwargs = payload["args"], payload.get("kwargs", {})
        embedded: Any = payload
    elif isinstance(payload, (list, tuple)) and len(payload) == 3:  # noqa: PLR2004 - protocol 2
        args, kwargs, embedded = payload
    else:
        return f"its body is a {type(payload).__name__} that holds no arguments"
    if not isinstance(args, (list, tuple)):
        return f"its arguments are a {type(args).__name__}"
    if not isinstance(kwargs, Mapping):
        return f"its keyword arguments are a {type(kwargs).__name__}"
    return _embedded_fault(embedded)


def _embedded_fault(embedded: Any) -> str | None:
    if embedded is None:
        return None
    if not isinstance(embedded, Mapping):
        return f"what is to follow it is a {type(embedded).__name__}"
    if fault := _kind_fault(embedded, _EMBEDDED):
        return fault
    for name in _SIGNATURES:
        if not all(isinstance(each, Mapping) for each in embedded.get(name) or ()):
            return f"its {name} holds what is no signature"
    return None


def _text_fault(name: str, value: Any) -> str | None:
    if not isinstance(value, str) or not value:
        return f"its {name} is no text"
    return None if has_utf8(value) else f"its {name} is no valid text"
