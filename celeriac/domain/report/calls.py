"""What was used: calls of tools with their durations, calls of models with tokens and cost."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal

from celeriac.domain.events import Event, EventType
from celeriac.domain.report.conversation import tool_of
from celeriac.domain.report.text import bounded_table, short, table
from celeriac.domain.usage import dollars
from celeriac.kit.jsontypes import JsonObject

MOST_ROWS = 1_000
_SHORT = 120


class ToolCalls:
    """Gathers the tool calls while the log is read, each with the answer that follows it."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._rows: list[list[object]] = []
        self._unanswered: dict[str, list[object]] = {}
        self._count = 0

    def add(self, event: Event) -> None:
        """Take up an event of any kind."""
        data = event.data
        if event.type is EventType.TOOL_CALL:
            self._count += 1
            if len(self._rows) < MOST_ROWS:
                arguments = short(data.get("arguments", {}), _SHORT)
                row = [event.seq, tool_of(data), arguments, "", ""]
                self._rows.append(row)
                if data.get("id") is not None:
                    self._unanswered[str(data["id"])] = row
        elif event.type is EventType.TOOL_RESULT:
            answered = self._unanswered.pop(str(data.get("id")), None)
            if answered is not None:
                answered[3:] = [data.get("ms", ""), "failed" if data.get("failed") else "ok"]

    def sections(self) -> Iterator[str]:
        """Yield the section, or nothing."""
        if self._rows:
            yield "## Tool calls"
            heads = ("event", "tool", "arguments", "ms", "outcome")
            yield from bounded_table(heads, self._rows, self._count)


class ModelCalls:
    """Gathers the model calls while the log is read, and their sums by model."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._rows: list[tuple[object, ...]] = []
        self._by_model: dict[str, _Sum] = {}
        self._all = _Sum()

    def add(self, event: Event) -> None:
        """Take up an event of any kind."""
        if event.type is not EventType.MODEL_CALL:
            return
        data = event.data
        model = f"{data.get('provider', '')}/{data.get('model', '')}"
        self._by_model.setdefault(model, _Sum()).add(data)
        self._all.add(data)
        if len(self._rows) < MOST_ROWS:
            self._rows.append(
                (
                    event.seq,
                    model,
                    *(data.get(name, "") for name in _TOKENS),
                    data.get("latency_ms", ""),
                    data.get("finish_reason") or "",
                    data.get("cost") or "unknown",
                )
            )

    def sections(self) -> Iterator[str]:
        """Yield the section, or nothing."""
        if not self._rows:
            return
        yield "## Model calls"
        sums = [each.cells(model) for model, each in self._by_model.items()]
        if len(sums) > 1:
            sums.append(self._all.cells("all"))
        yield table(("model", "calls", "tokens in", "out", "cached", "US dollars"), sums)
        heads = ("event", "model", "tokens in", "out", "cached", "ms", "ended", "US dollars")
        yield from bounded_table(heads, self._rows, self._all.calls)


_TOKENS = ("input_tokens", "output_tokens", "cached_tokens")


@dataclass(slots=True)
class _Sum:
    calls: int = 0
    tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_TOKENS, 0))
    cost: Decimal = Decimal(0)
    unpriced: int = 0

    def add(self, data: JsonObject) -> None:
        self.calls += 1
        for name in _TOKENS:
            self.tokens[name] += int(data.get(name) or 0)
        if data.get("cost") is None:
            self.unpriced += 1
        else:
            self.cost += Decimal(str(data["cost"]))

    def cells(self, name: str) -> tuple[object, ...]:
        cost = dollars(self.cost) if self.unpriced < self.calls else "unknown"
        if self.unpriced and self.cost:
            cost += f" and {self.unpriced} without a price"
        return (name, self.calls, *self.tokens.values(), cost)
