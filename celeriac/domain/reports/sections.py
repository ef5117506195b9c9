"""Sections of a report: tool calls, model calls, conversation, questions.

Text of others stays plain text and is cut to a bearable length.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal

import orjson

from celeriac.domain.approvals import Approval, ApprovalStatus
from celeriac.domain.executions.events import Event, EventType
from celeriac.domain.usage import dollars
from celeriac.kit.json_types import JsonObject, JsonValue
from celeriac.kit.text import clip
from celeriac.kit.words import counted

_HARMLESS = r"(?<=[^\W_])[-_](?=[^\W_])|(?<![\w./@:])\d+\.\d+(?![\w./@:])"
"""A hyphen or underscore inside a word, and a decimal number: readers find no markup or link."""
_SPECIAL = re.compile(rf"({_HARMLESS})|([\\`*_{{}}\[\]<>()#+\-.!|~&])")
_BACKTICKS = re.compile(r"`+")
_TURNS = frozenset({"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"})
"""Directional formatting of Unicode: it can make text read as what it isn't."""
_LONGEST_BLOCK = 20_000
_LONGEST_LINE = 500


def inline(text: str, most: int = _LONGEST_LINE) -> str:
    """Return `text` on one line, cut to `most` characters, with nothing that Markdown reads."""
    line = _plain(" ".join(text[: 2 * most].split()))
    if len(line) > most or len(text) > 2 * most:
        line = line[: most - 1] + "…"
    return _SPECIAL.sub(lambda found: found[1] or f"\\{found[2]}", line)


def block(value: JsonValue) -> str:
    """Return a JSON value as a block: a text as it is, everything else as indented JSON."""
    if isinstance(value, str):
        return fenced(value)
    return fenced(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode(), language="json")


def fenced(text: str, language: str = "") -> str:
    """Return a text as a block of its own, which nothing in it can end; a long one is cut."""
    cut = len(text) - _LONGEST_BLOCK
    text = _plain(text[:_LONGEST_BLOCK])
    longest = max(map(len, _BACKTICKS.findall(text)), default=0)
    fence = "`" * max(3, longest + 1)
    shown = f"{fence}{language}\n{text}\n{fence}"
    return shown if cut <= 0 else f"{shown}\n\n*{counted(cut, 'more character')} left out here.*"


def short(value: JsonValue, most: int) -> str:
    """Return a JSON value as compact JSON, cut to `most` characters; not escaped yet."""
    return clip(orjson.dumps(value).decode(), most)


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table; cells are texts of others or plain values."""
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    lines += [f"| {' | '.join(inline(_shown(cell)) for cell in row)} |" for row in rows]
    return "\n".join(lines)


def bounded_table(
    heads: Sequence[str], rows: Sequence[Sequence[object]], count: int
) -> Iterator[str]:
    """Yield a table of the first `rows` of `count`, and how many are left out."""
    yield table(heads, rows)
    if count > len(rows):
        yield f"*{count - len(rows):,} more are in the events.*"


def facts(pairs: Iterable[tuple[str, object]]) -> str:
    """Return names with their values as a list, without those whose value is None."""
    return "\n".join(_facts_text(pairs))


def _facts_text(pairs: Iterable[tuple[str, object]]) -> Iterator[str]:
    for name, value in pairs:
        if value is not None:
            yield f"- **{name}**: {inline(_shown(value))}"


def _shown(value: object) -> str:
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    return str(value)


def _plain(text: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    text = text.replace("\r\n", "\n")
    return "".join("\N{REPLACEMENT CHARACTER}" if _misleads(each) else each for each in text)


def _misleads(character: str) -> bool:
    if character in "\n\t":
        return False
    return unicodedata.category(character) == "Cc" or unicodedata.bidirectional(character) in _TURNS


_LONGEST = 1_000_000
"""Characters of the conversation; what comes after it is in the events."""
_SAID = frozenset({EventType.MESSAGE, EventType.TOOL_CALL, EventType.TOOL_RESULT})


class Conversation:
    """Gathers the conversation while the log is read."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._parts: list[str] = []
        self._length = 0
        self._left_out = 0

    def add(self, event: Event) -> None:
        """Take up an event of any kind."""
        if event.type not in _SAID:
            return
        if self._length > _LONGEST:
            self._left_out += 1
            return
        part = _part(event)
        self._length += len(part)
        self._parts.append(part)

    def sections(self) -> Iterator[str]:
        """Yield the section, or nothing."""
        if self._parts:
            yield "## Conversation"
            yield from self._parts
        if self._left_out:
            yield f"*{self._left_out:,} more messages and tool calls are in the events.*"


def tool_of(data: JsonObject) -> str:
    """Return the name of the tool that a call or an answer is of; agents tell it their way."""
    return str(data.get("tool") or data.get("name") or "a tool")


def _part(event: Event) -> str:
    data = event.data
    if event.type is EventType.MESSAGE:
        parts = [f"### {inline(str(data.get('role', 'message')))}", block(data.get("content", ""))]
    elif event.type is EventType.TOOL_CALL:
        parts = [f"### Calls {inline(tool_of(data))}", block(data.get("arguments", data))]
    else:
        outcome = "failed" if data.get("failed") else "answers"
        took = f" after {data['ms']} ms" if isinstance(data.get("ms"), int | float) else ""
        parts = [f"### {inline(tool_of(data))} {outcome}{took}", block(data.get("content", data))]
    if clipped := data.get("clipped"):  # a number, unless the agent tells events of its own
        cut = counted(clipped, "character") if isinstance(clipped, int) else inline(str(clipped))
        parts.append(f"*{cut} cut off when it was stored.*")
    return "\n\n".join(parts)


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


_SHORT_ANSWER = 200


def questions(approvals: Sequence[Approval]) -> Iterator[str]:
    """Yield the section, or nothing."""
    if approvals:
        yield "## Approvals"
        rows = [(a.created_at, a.kind, a.title, _answer(a), a.answered_by or "") for a in approvals]
        yield table(("asked", "kind", "question", "answer", "by"), rows)


def _answer(approval: Approval) -> str:
    if approval.status in {ApprovalStatus.OPEN, ApprovalStatus.WITHDRAWN}:
        return approval.status.value
    answer = "approved" if approval.approved else "denied"
    if approval.status is ApprovalStatus.EXPIRED:
        answer = f"nobody, so {answer}"
    if approval.value is not None:
        answer += f": {short(approval.value, _SHORT_ANSWER)}"
    return f"{answer} ({approval.note})" if approval.note else answer
