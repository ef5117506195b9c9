"""Log lines of an agent: into our logs with the ids of the attempt, and into its event log."""

import logging
from collections.abc import Mapping

from celeriac.agents.base import clip
from celeriac.domain.events import EventType
from celeriac.kit.jsontypes import JsonValue, dumps, storable_text
from celeriac.logs import get_logger
from celeriac.services.ports import RunContext

MAX_LOG_EVENTS = 1_000
"""Lines of one attempt that become events; the log files get all of them."""

MAX_LOG_CHARACTERS = 20_000
"""How much of one line, and of its fields as JSON, is kept."""

_NUMBERS = logging.getLevelNamesMapping()


class LogRelay:
    """Takes the log lines of one attempt."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._log = get_logger("celeriac.agent").bind(**context.correlation)
        self._count = 0

    async def write(
        self,
        message: str,
        *,
        level: str = "info",
        source: str = "agent",
        fields: Mapping[str, JsonValue] | None = None,
    ) -> None:
        """Log one line; raises what `RunContext.emit` raises.

        `source` is the logger's name in the agent, or `stderr`.
        """
        message = clip(storable_text(message), MAX_LOG_CHARACTERS)
        extra: dict[str, JsonValue] = {"source": source}
        if fields:
            size = len(dumps(dict(fields)))
            kept = dict(fields) if size <= MAX_LOG_CHARACTERS else {"clipped": size}
            extra["fields"] = kept  # nested: their names must not meet ours
        self._log.log(_NUMBERS[level.upper()], message, **extra)
        self._count += 1
        if self._count > MAX_LOG_EVENTS:
            return
        await self._context.emit(EventType.LOG, {"level": level, "message": message, **extra})
        if self._count == MAX_LOG_EVENTS:
            await self._context.emit(
                EventType.LOG,
                {
                    "level": "warning",
                    "message": f"{MAX_LOG_EVENTS} lines are kept as events; see the log files "
                    "for what follows.",
                    "source": "celeriac",
                },
            )
