"""What an attempt reached over its proxy, and what was refused to it, as events."""

from dataclasses import dataclass, field

from celeriac.agents.network.rules import ConnectionRefusedByRuleError, Rule
from celeriac.domain.executions.events import EventType
from celeriac.kit.json_types import JsonObject
from celeriac.services.ports import RunContext

MOST_REFUSALS = 50
"""Different refusals of an attempt that are events of their own; all are counted at the end."""
MOST_DESTINATIONS = 100
"""Destinations that are counted one by one."""

_Key = tuple[str, int, Rule]


@dataclass(slots=True)
class Traffic:
    """Connections to one destination, and the bytes of their contents."""

    connections: int = 0
    sent: int = 0
    received: int = 0


@dataclass(slots=True)
class NetworkReport:
    """Counts the connections of an attempt. Its memory and its events are bounded."""

    context: RunContext
    _reached: dict[tuple[str, int], Traffic] = field(default_factory=dict)
    _others: Traffic = field(default_factory=Traffic)
    _refused: dict[_Key, int] = field(default_factory=dict)
    _more_refused: int = 0

    def connected(self, host: str, port: int) -> Traffic:
        """Count a connection; return where its bytes are counted."""
        traffic = self._reached.get((host, port))
        if traffic is None:
            full = len(self._reached) >= MOST_DESTINATIONS
            traffic = self._others if full else self._reached.setdefault((host, port), Traffic())
        traffic.connections += 1
        return traffic

    async def refused(self, refusal: ConnectionRefusedByRuleError) -> None:
        """Count a refusal; the first of its kind is an event. Raises what `emit` does."""
        key = (refusal.host, refusal.port, refusal.rule)
        if key in self._refused:
            self._refused[key] += 1
            return
        if len(self._refused) >= MOST_REFUSALS:
            self._more_refused += 1
            return
        self._refused[key] = 1
        await self.context.emit(
            EventType.NETWORK_REFUSED,
            {
                "host": refusal.host,
                "port": refusal.port,
                "rule": refusal.rule.value,
                "reason": refusal.reason,
            },
        )

    async def finish(self) -> None:
        """Add the event with all counts, if there were any connections. Raises what `emit` does."""
        if self._reached or self._refused:
            await self.context.emit(EventType.NETWORK_USED, self._summary())

    def _summary(self) -> JsonObject:
        reached = [
            {"host": host, "port": port, **_counts(traffic)}
            for (host, port), traffic in self._reached.items()
        ]
        if self._others.connections:
            reached.append({"host": None, "port": None, **_counts(self._others)})
        refused: list[JsonObject] = [
            {"host": host, "port": port, "rule": rule.value, "times": times}
            for (host, port, rule), times in self._refused.items()
        ]
        if self._more_refused:
            refused.append({"host": None, "port": None, "rule": None, "times": self._more_refused})
        return {"reached": reached, "refused": refused}


def _counts(traffic: Traffic) -> JsonObject:
    return {
        "connections": traffic.connections,
        "sent": traffic.sent,
        "received": traffic.received,
    }
