"""What runners share: how a conversation enters an execution's log, what a result must be.

What a user's code returns, as JSON; the same rules on the worker and in a child process.
"""

import contextlib
import dataclasses
import re
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import PurePath
from typing import Any, Literal
from uuid import UUID

from celeriac.domain.errors import BusyError, OutputInvalidError, PermanentError
from celeriac.domain.executions.events import EventType
from celeriac.domain.schemas import is_quick, violations
from celeriac.domain.usage import Clip
from celeriac.kit.json_types import MAX_DEPTH, JsonObject, JsonValue, loads, storable, storable_text
from celeriac.kit.threads import CHECKS
from celeriac.services.ports import RunContext

MAX_RESULT_BYTES = 8_000_000


def encode_result(value: object, source: str) -> str:
    """Return `value` as JSON text.

    Besides JSON's own types it may hold pydantic models, dataclasses, UUIDs, dates, times,
    decimals and paths. Raises PermanentError naming `source` for anything else, for what can't be
    stored unchanged (see `storable`), and for more than `MAX_RESULT_BYTES`.
    """
    try:
        text = storable(value, default=_plain, depth=MAX_DEPTH)
    except (TypeError, ValueError, RecursionError) as error:
        raise PermanentError(
            f"{source} returned a value that JSON can't hold: {error}. Return plain values, "
            "pydantic models or dataclasses."
        ) from error
    size = len(text.encode())
    if size > MAX_RESULT_BYTES:
        raise PermanentError(
            f"{source} returned {size:,} bytes of JSON; the limit is {MAX_RESULT_BYTES:,}. "
            "Store large results elsewhere and return where they are."
        )
    return text


def _plain(value: Any) -> Any:
    """Turn what json doesn't know into what it does; raises TypeError for the rest."""
    if hasattr(value, "model_dump"):  # pydantic, without importing it
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, (UUID, Decimal, PurePath)):
        return str(value)
    if isinstance(value, float):
        return float(value)  # a subclass
    if isinstance(value, tuple):
        return list(value)  # a named one
    raise TypeError(f"it holds a {type(value).__name__}")


MAX_MESSAGE_CHARACTERS = 20_000
"""How much of one message is kept in the log; the rest is cut off and counted."""

Role = Literal["system", "user", "assistant"]


async def emit_message(context: RunContext, role: Role, content: str) -> None:
    """Add a message to the execution's log.

    Its event holds `role` and `content`, and `clipped`, the number of characters that were cut
    off, where there were any.
    """
    kept = storable_text(content[:MAX_MESSAGE_CHARACTERS])
    data: dict[str, str | int] = {"role": role, "content": kept}
    if len(content) > MAX_MESSAGE_CHARACTERS:
        data["clipped"] = len(content) - MAX_MESSAGE_CHARACTERS
    await context.emit(EventType.MESSAGE, data)


async def emit_clipped(context: RunContext, clip: Clip) -> None:
    """Add a warning to the execution's log that names the budget which cut an answer off."""
    message = (
        f"The answer was cut off at {clip.output_tokens:,} tokens: no more is left of the "
        f"{clip.budget}."
    )
    await context.emit(EventType.LOG, {"level": "warning", "message": message, "source": "budget"})


async def violations_of(schema: JsonObject, value: JsonValue) -> list[str]:
    """Return what is wrong with `value` under `schema`; none if it fits.

    What takes more than a few milliseconds is done in a thread, and the loop goes on. Waits while
    other large values are being checked: the limits of the attempt end that, nothing else.
    """
    if is_quick(schema, value):
        return violations(schema, value)
    while True:
        with contextlib.suppress(BusyError):
            return await CHECKS.run(violations, schema, value)


async def final_result(value: object, schema: JsonObject | None, source: str) -> JsonValue:
    """Return a result as it will be stored, or raise why it can't be: of every kind of agent.

    Raises what `encode_result` does, and OutputInvalidError, which names `source` and each fault,
    for what doesn't fit the task's output `schema`.
    """
    result = loads(encode_result(value, re.sub("^the ", "The ", source)))
    if schema is not None and (faults := await violations_of(schema, result)):
        raise OutputInvalidError(
            f"The result of {source} doesn't fit the task's output schema: {'; '.join(faults)}.",
            faults=faults,
        )
    return result


def clip(text: str, characters: int) -> str:
    """Return `text` cut to `characters`; what was cut ends in an ellipsis."""
    return text if len(text) <= characters else text[: characters - 1] + "…"
