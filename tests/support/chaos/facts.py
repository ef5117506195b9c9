"""What is there after a run: in the database, in the diary of the agents, in the ledger."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from celeriac.domain.executions.events import TERMINAL_EVENTS, EventType
from tests.support.chaos.agents import BEGIN, END
from tests.support.chaos.driver import Driver, Entry

_LIFE_SECONDS = 5.0
LEAVES = frozenset({*TERMINAL_EVENTS, EventType.RETRY_SCHEDULED, EventType.HANDED_BACK,
                    EventType.WAITING, EventType.WORKER_LOST})  # fmt: skip
"""Events with which an attempt runs no longer."""
TERMINAL = frozenset({"completed", "failed", "cancelled"})

_EXECUTIONS = text("""
SELECT e.id, e.status, e.attempt, e.retry_count, e.crash_count, i.variables->>'token' AS token,
       r.result, e.error_code, e.error_message, e.available_at, e.created_at, e.started_at,
       e.completed_at, e.message_count, e.tool_call_count, e.model_call_count, e.input_tokens,
       e.output_tokens, e.cost, s.body->>'function' AS function,
       e.limit_keys,
       (SELECT sum(w.spent_tokens) FROM budget_windows w WHERE w.budget_id = e.id) AS spent_tokens
FROM executions e JOIN agent_versions v ON v.id = e.agent_version_id
JOIN specs s ON s.hash = v.spec_hash
LEFT JOIN execution_inputs i ON i.execution_id = e.id
LEFT JOIN execution_results r ON r.execution_id = e.id
""")
_EVENTS = text("""
SELECT execution_id, type, attempt, extract(epoch FROM at)::float8 AS at, data
FROM events ORDER BY execution_id, seq
""")
_CALLS = text("""
SELECT execution_id, attempt, count(*) AS calls, sum(input_tokens) AS input_tokens,
       sum(output_tokens) AS output_tokens, coalesce(sum(cost), 0) AS cost
FROM model_calls GROUP BY execution_id, attempt
""")


@dataclass(frozen=True, slots=True)
class Effect:
    """A line of the diary."""

    token: str
    execution: str
    attempt: int
    pid: int
    step: str
    release: int
    at: float


@dataclass(frozen=True, slots=True)
class Happened:
    """An event of an execution's log."""

    type: str
    attempt: int
    at: float
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Calls:
    """The model calls of one attempt."""

    calls: int
    input_tokens: int
    output_tokens: int
    cost: Decimal


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that the checks compare."""

    rows: Mapping[str, Any]
    """Executions by id."""
    by_token: Mapping[str, Sequence[Any]]
    events: Mapping[str, Sequence[Happened]]
    calls: Mapping[str, Mapping[int, Calls]]
    """Model calls by execution and attempt."""
    effects: Mapping[str, Sequence[Effect]]
    """The diary, by execution."""
    entries: Mapping[str, Entry]
    """The ledger, by token."""
    keys: Mapping[str, str]
    """Idempotency keys that are committed, and what they made."""

    def alive(self, row: Any) -> tuple[float, float]:
        """Return when faults could have met an execution."""
        begun = _seconds(row.created_at)
        due = max(_seconds(row.started_at or row.created_at), _seconds(row.available_at))
        ended = _seconds(row.completed_at) if row.completed_at else float("inf")
        return begun, min(ended, due + _LIFE_SECONDS)

    def submitted(self) -> Iterator[tuple[Entry, str, Any]]:
        """Yield each execution that is stored, with its entry and token."""
        for token, rows in self.by_token.items():
            if token in self.entries:
                for row in rows:
                    yield self.entries[token], token, row

    def begun(self, row: Any) -> list[Effect]:
        """Return the begins of an execution's attempts."""
        return [each for each in self.effects[str(row.id)] if each.step == BEGIN]

    def running(self, row: Any) -> Iterator[tuple[float, float]]:
        """Yield when each attempt of an execution ran, by its log and the database's clock."""
        since = None
        for event in self.events[str(row.id)]:
            if event.type == EventType.STARTED:
                since = event.at
            elif since is not None and event.type in LEAVES:
                yield since, event.at
                since = None
        if since is not None:
            yield since, float("inf")

    def ended(self, row: Any) -> list[Effect]:
        """Return the ends of an execution's attempts."""
        return [each for each in self.effects[str(row.id)] if each.step == END]


def read_facts(connection: Connection, driver: Driver, diary: Path) -> Facts:
    """Read everything."""
    rows = {str(row.id): row for row in connection.execute(_EXECUTIONS)}
    by_token: dict[str, list[Any]] = defaultdict(list)
    for row in rows.values():
        by_token[row.token].append(row)
    events: dict[str, list[Happened]] = defaultdict(list)
    for row in connection.execute(_EVENTS):
        happened = Happened(row.type, row.attempt, row.at, row.data)
        events[str(row.execution_id)].append(happened)
    calls: dict[str, dict[int, Calls]] = defaultdict(dict)
    for row in connection.execute(_CALLS):
        of_attempt = Calls(row.calls, row.input_tokens, row.output_tokens, row.cost)
        calls[str(row.execution_id)][row.attempt] = of_attempt
    effects: dict[str, list[Effect]] = defaultdict(list)
    for line in diary.read_text().splitlines():
        token, execution, attempt, pid, step, release, at = line.split()
        effect = Effect(token, execution, int(attempt), int(pid), step, int(release), float(at))
        effects[execution].append(effect)
    keys = connection.execute(text("SELECT key, resource_id FROM idempotency_keys")).all()
    return Facts(
        rows=rows,
        by_token=by_token,
        events=events,
        calls=calls,
        effects=effects,
        entries={
            token: entry for entry in driver.entries if entry.begun for token in entry.work.tokens()
        },
        keys={row[0]: _text(row[1]) for row in keys},
    )


def _text(value: UUID) -> str:
    return str(value)


def _seconds(moment: datetime) -> float:
    return moment.timestamp()
