"""What pydantic finds wrong with a request, in words that name the field and the cure."""

from collections.abc import Sequence
from typing import Any

from celeriac.wire import ProblemField

_CURES = {
    "missing": "is required; add it",
    "extra_forbidden": "is not a field here; remove it or correct its name",
    "json_invalid": "is not valid JSON",
    "uuid_parsing": "is no id; write it whole, as in 0199f3a2-1c5e-7d30-9a64-0b8f6b1d2c11",
    "uuid_type": "is no id; write it as a text",
    "int_parsing_size": "is too large a number",
}
_OWN_WORDS = "Value error, "
_WHOLE = "body"


def faults(found: Sequence[Any], body: object) -> list[ProblemField]:
    """Translate pydantic's findings about `body` and the parameters of a request.

    No value that was sent is repeated: it may be a secret.
    """
    return [
        ProblemField(field=_field(fault["loc"], body), message=_message(fault)) for fault in found
    ]


def _message(fault: Any) -> str:
    cure = _CURES.get(fault["type"])
    if cure is not None:
        return cure
    message = str(fault["msg"])
    if message.startswith(_OWN_WORDS):
        return message.removeprefix(_OWN_WORDS)
    return message[:1].lower() + message[1:]


def _field(location: Sequence[int | str], body: object) -> str:
    place, *path = location
    if place != _WHOLE:
        return ".".join(str(part) for part in path)
    return ".".join(_steps(path, body)) or _WHOLE


def _steps(path: Sequence[int | str], body: object) -> list[str]:
    # Within a union pydantic puts the kind into the path; what the body doesn't have is no step,
    # except at the end, where a required field is missing.
    steps: list[str] = []
    for index, part in enumerate(path):
        if _has(body, part):
            body = body[part]  # type: ignore[index]
        elif index < len(path) - 1:
            continue
        steps.append(str(part))
    return steps


def _has(body: object, part: int | str) -> bool:
    if isinstance(body, dict):
        return part in body
    return isinstance(body, list) and isinstance(part, int) and part < len(body)
