"""What runners share: how a conversation enters an execution's log, what a result must be.

What a user's code returns, as JSON; the same rules on the worker and in a child process.
"""

import contextlib
import re
from typing import Literal

from celeriac.agents.results import encode_result
from celeriac.domain.errors import BusyError, OutputInvalidError
from celeriac.domain.executions.events import EventType
from celeriac.domain.schemas import is_quick
from celeriac.domain.usage import Clip
from celeriac.kit.json_types import JsonObject, JsonValue, loads, storable_text
from celeriac.kit.text import clipped_field
from celeriac.kit.threads import CHECKS
from celeriac.kit.words import counted
from celeriac.services.catalog.schemas import violations
from celeriac.services.ports import RunContext

MAX_MESSAGE_CHARACTERS = 20_000
"""How much of one message is kept in the log; the rest is cut off and counted."""

Role = Literal["system", "user", "assistant"]


async def emit_message(context: RunContext, role: Role, content: str) -> None:
    """Add a message to the execution's log.

    Its event holds `role` and `content`, and `clipped`, the number of characters that were cut
    off, where there were any.
    """
    field = clipped_field("content", content, MAX_MESSAGE_CHARACTERS)
    field["content"] = storable_text(field["content"])
    await context.emit(EventType.MESSAGE, {"role": role, **field})


async def emit_clipped(context: RunContext, clip: Clip) -> None:
    """Add a warning to the execution's log that names the budget which cut an answer off."""
    message = (
        f"The answer was cut off at {counted(clip.output_tokens, 'token')}: no more is left of the "
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
