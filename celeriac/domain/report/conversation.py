"""What was said and done: messages, calls of tools and of models, questions to people."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from celeriac.domain.approval import Approval, ApprovalStatus
from celeriac.domain.events import Event, EventType
from celeriac.domain.report.text import block, inline, short, table
from celeriac.kit.jsontypes import JsonObject

_LONGEST = 1_000_000
"""Characters of the conversation; what comes after it is in the events."""
_MOST_ROWS = 1_000
_SAID = frozenset({EventType.MESSAGE, EventType.TOOL_CALL, EventType.TOOL_RESULT})


def conversation(events: Iterable[Event]) -> Iterator[str]:
    """Yield the messages and tool calls, in order."""
    said = [event for event in events if event.type in _SAID]
    if said:
        yield "## Conversation"
    length = 0
    for place, event in enumerate(said):
        part = _part(event)
        length += len(part)
        if length > _LONGEST:
            yield f"*{len(said) - place:,} more messages and tool calls are in the events.*"
            return
        yield part


def _part(event: Event) -> str:
    data = event.data
    if event.type is EventType.MESSAGE:
        parts = [f"### {inline(str(data.get('role', 'message')))}", block(data.get("content", ""))]
    elif event.type is EventType.TOOL_CALL:
        parts = [f"### Calls {inline(_tool(data))}", block(data.get("arguments", data))]
    else:
        outcome = "failed" if data.get("failed") else "answers"
        took = f" after {data['ms']} ms" if isinstance(data.get("ms"), int | float) else ""
        parts = [f"### {inline(_tool(data))} {outcome}{took}", block(data.get("content", data))]
    if data.get("clipped"):
        parts.append(f"*{inline(str(data['clipped']))} characters were cut when it was stored.*")
    return "\n\n".join(parts)


def _tool(data: JsonObject) -> str:
    return str(data.get("tool") or data.get("name") or "a tool")


def tool_calls(events: Sequence[Event]) -> Iterator[str]:
    """Yield a table of the tool calls with their durations."""
    rows: list[tuple[object, ...]] = []
    results = {_id(e): e.data for e in events if e.type is EventType.TOOL_RESULT}
    for event in events:
        if event.type is not EventType.TOOL_CALL:
            continue
        result = results.get(_id(event))
        ms = "" if result is None else result.get("ms", "")
        outcome = "" if result is None else ("failed" if result.get("failed") else "ok")
        arguments = short(event.data.get("arguments", {}), 120)
        rows.append((event.seq, _tool(event.data), arguments, ms, outcome))
    if rows:
        yield "## Tool calls"
        yield from _shown(("event", "tool", "arguments", "ms", "outcome"), rows)


def _id(event: Event) -> str:
    """Return what a call and its result have in common; the agent's own word, so any value."""
    given = event.data.get("id")
    return f"event {event.seq}" if given is None else str(given)


@dataclass(slots=True)
class _Total:
    calls: int = 0
    tokens: list[int] = field(default_factory=lambda: [0, 0, 0])
    cost: Decimal = Decimal(0)
    unpriced: int = 0

    def add(self, data: JsonObject) -> None:
        self.calls += 1
        for place, name in enumerate(("input_tokens", "output_tokens", "cached_tokens")):
            self.tokens[place] += int(data.get(name) or 0)
        if data.get("cost") is None:
            self.unpriced += 1
        else:
            self.cost += Decimal(str(data["cost"]))

    def cells(self, name: str) -> tuple[object, ...]:
        cost = f"{self.cost:.6f}" if self.unpriced < self.calls else "unknown"
        if self.unpriced and self.cost:
            cost += f" and {self.unpriced} without a price"
        return (name, self.calls, *self.tokens, cost)


def model_calls(events: Iterable[Event]) -> Iterator[str]:
    """Yield the model calls with their tokens and cost, and the totals by model."""
    calls = [event for event in events if event.type is EventType.MODEL_CALL]
    if not calls:
        return
    by_model: dict[str, _Total] = {}
    total = _Total()
    for event in calls:
        by_model.setdefault(_model(event.data), _Total()).add(event.data)
        total.add(event.data)
    rows = [
        (
            event.seq,
            _model(event.data),
            *(event.data.get(n, "") for n in ("input_tokens", "output_tokens", "cached_tokens")),
            event.data.get("latency_ms", ""),
            event.data.get("finish_reason") or "",
            event.data.get("cost") or "unknown",
        )
        for event in calls
    ]
    yield "## Model calls"
    sums = [total.cells(name) for name, total in by_model.items()]
    if len(sums) > 1:
        sums.append(total.cells("all"))
    yield table(("model", "calls", "tokens in", "out", "cached", "US dollars"), sums)
    heads = ("event", "model", "tokens in", "out", "cached", "ms", "ended", "US dollars")
    yield from _shown(heads, rows)


def _model(data: JsonObject) -> str:
    return f"{data.get('provider', '')}/{data.get('model', '')}"


def questions(approvals: Sequence[Approval]) -> Iterator[str]:
    """Yield what people were asked, and what they answered."""
    if approvals:
        yield "## Approvals"
        rows = [(a.created_at, a.kind, a.title, _answer(a), a.answered_by or "") for a in approvals]
        yield from _shown(("asked", "kind", "question", "answer", "by"), rows)


def _answer(approval: Approval) -> str:
    if approval.status in {ApprovalStatus.OPEN, ApprovalStatus.WITHDRAWN}:
        return approval.status.value
    answer = "approved" if approval.approved else "denied"
    if approval.status is ApprovalStatus.EXPIRED:
        answer = f"nobody, so {answer}"
    if approval.value is not None:
        answer += f": {short(approval.value, 200)}"
    return f"{answer} ({approval.note})" if approval.note else answer


def _shown(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    yield table(heads, rows[:_MOST_ROWS])
    if len(rows) > _MOST_ROWS:
        yield f"*{len(rows) - _MOST_ROWS:,} more are in the events.*"
