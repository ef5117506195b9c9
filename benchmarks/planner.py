"""`python -m benchmarks planner`: what the number of partitions costs.

The same history in 1, 12, 40 and 180 partitions. Each statement is measured as it is sent, from one
connection, without workers. Then the server tells the plan that it has followed, by which index it
reads the executions and in how many partitions. How long it plans for the values is asked for
itself: what is sent all the time keeps its plan (docs/adr/0052).
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import event, text

from benchmarks.figures import Figure
from benchmarks.history import database_alone, filters, listing, say, turns
from benchmarks.meter import WARM, Meter, on_processor
from benchmarks.seeds import DAYS, History
from celeriac.db import partitions
from celeriac.db.engine import Database
from celeriac.domain.executions.model import Claim, Completed, Message
from tests.support.core import Core

_NUMBERS = (1, 12, 40, 180)
_ROWS, _QUICK_ROWS = 100_000, 2_000
_PENDING, _QUICK_PENDING = 5_000, 100
_SAMPLES, _QUICK_SAMPLES = 40, 5
_PLANS = 15
_LISTS = ("all", "a later page", "status failed", "status running", "task", "rare task",
          "trigger webhook", "rare label", "session", "cancellable", "before a time")  # fmt: skip
_HOUR_MS = 3_600_000

Work = Callable[[], object]


def measure(*, quick: bool) -> Figure:
    """Measure with each number of partitions."""
    rows = _QUICK_ROWS if quick else _ROWS
    samples = _QUICK_SAMPLES if quick else _SAMPLES
    measured: dict[str, Any] = {}
    for number in _NUMBERS:
        say(f"{number} partitions")
        with database_alone() as database:
            watch = _Watch(database)
            _divide(database, number)
            core = Core(database)
            history = History(core)
            history.fill(rows)
            core.pending_many([{}] * (_QUICK_PENDING if quick else _PENDING))
            # else what is submitted would wait behind them
            core.execute("UPDATE executions SET queue = 'other' WHERE status = 'pending'")
            core.execute("ANALYZE executions")
            found = {
                name: _measured(Meter(database), watch, work, samples)
                for name, work in _works(core, history, samples + WARM + _PLANS)
            }
            with database.autocommit() as connection:
                there = len(partitions.periods(connection))
            assert there == number, f"there are {there} partitions instead of {number}"
            measured[str(number)] = found
    return Figure("What does the number of partitions cost?", measured, [])


def _divide(database: Database, number: int) -> None:
    """Divide the time of the history, up to tomorrow, into so many partitions."""
    now = datetime.now(UTC)
    begin, end = (int(each.timestamp() * 1000) for each in (now - timedelta(days=DAYS), now))
    begin, end = begin - _HOUR_MS, end + 12 * _HOUR_MS
    bounds = [begin + (end - begin) * each // number for each in range(number + 1)]
    with database.transaction() as connection:
        for period in partitions.periods(connection):
            for table in partitions.TABLES:
                connection.execute(text(f"DROP TABLE {period.name(table.name)}"))
        partitions.forget(connection)
        for least, above in pairwise(bounds):
            partitions.make(connection, partitions.Period(least, above))


def _works(core: Core, history: History, count: int) -> Iterator[tuple[str, Work]]:
    """Yield what is measured, one after the other."""
    made: list[UUID] = []
    claims: list[Claim] = []
    attempts = core.claiming()

    def claim() -> None:
        execution_id = made.pop()
        claimed = attempts(Message(execution_id, 0, str(execution_id)), uuid4())
        assert claimed is not None, "nobody else can have it"
        claims.append(claimed)

    yield "submit", lambda: made.append(core.queued())
    yield "claim", claim
    yield "finish", lambda: core.end(claims.pop(), Completed(None))
    yield "finish and claim the next", turns(core, count)
    lists = filters(core, history)
    for name in _LISTS:
        yield f"list: {name}", listing(core, lists[name])


def _measured(meter: Meter, watch: "_Watch", work: Work, samples: int) -> Mapping[str, Any]:
    times = meter.times(work, samples)
    # the shortest, because what else the machine does only adds
    seen = [watch.plans_of(work) for _ in range(_PLANS)]
    partitions_read = {name for plans in seen for plan in plans for name in plan.read}
    return {
        "p50_ms": times["p50_ms"],
        "p99_ms": times["p99_ms"],
        "processor_ms": times["processor_ms"],
        "executing_ms": round(min(sum(plan.ms for plan in plans) for plans in seen), 2),
        "planning_processor_ms": round(watch.planning_ms(), 2),
        "partitions_read": len(partitions_read),
        "indexes": sorted({name for plans in seen for plan in plans for name in plan.indexes}),
    }


class _Plan:
    """A plan that the server has followed."""

    def __init__(self, ms: float, plan: Mapping[str, Any], wholes: Mapping[str, str]) -> None:
        """`wholes` has the index of the whole table for each one of a partition."""
        self.ms = ms
        self.read: set[str] = set()
        """The partitions of executions in which it looked."""
        self.indexes: set[str] = set()
        for node in _nodes(plan):
            if not node.get("Actual Loops"):
                continue
            place = str(node.get("Relation Name", ""))
            if place.startswith("executions_"):
                self.read.add(place)
                if node["Node Type"] == "Seq Scan":
                    self.indexes.add("none")
            if str(node.get("Index Name", "")).startswith("executions_"):
                self.indexes.add(wholes[node["Index Name"]])


def _nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield plan
    for each in plan.get("Plans", ()):
        yield from _nodes(each)


class _Watch:
    """Sees the statements of a database, and the plans that the server follows for them."""

    def __init__(self, database: Database) -> None:
        """The database must have no connection yet."""
        self._database = database
        self._said: list[str] = []
        self._statements: list[tuple[str, Any]] = []
        self._sent: list[tuple[str, Any]] = []
        """The statements on executions of the last work."""
        event.listen(database.engine, "connect", self._connected)
        event.listen(database.engine, "before_cursor_execute", self._executed)

    def _connected(self, connection: Any, _record: object) -> None:
        connection.add_notice_handler(lambda said: self._said.append(said.message_primary or ""))
        for setting in _TELLING:
            connection.execute(setting)
        connection.commit()

    def _executed(self, _c: object, _k: object, statement: str, values: object, *_: object) -> None:
        self._statements.append((statement, values))

    def plans_of(self, work: Work) -> Sequence[_Plan]:
        """Do the work once; return the plans of its statements on executions."""
        with self._database.autocommit() as connection:
            wholes = {row[0]: row[1] for row in connection.execute(_PARTS)}
            connection.exec_driver_sql("SET auto_explain.log_min_duration = 0")
        self._said.clear()
        self._statements.clear()
        work()
        told = [_TOLD.match(each) for each in self._said]
        self._sent = [each for each in self._statements if _ON_EXECUTIONS.search(each[0])]
        with self._database.autocommit() as connection:
            connection.exec_driver_sql("SET auto_explain.log_min_duration = -1")
        made = [_Plan(float(e[1]), json.loads(e[2])["Plan"], wholes) for e in told if e]
        return [each for each in made if each.read]

    def planning_ms(self) -> float:
        """Return for how long the server plans the last work's statements for their values.

        That is the processor time of its session.
        """
        with self._database.autocommit() as connection:
            driver: Any = connection.connection.driver_connection
            pid = driver.info.backend_pid
            began = on_processor(pid)
            for _ in range(_PLANS):
                for statement, values in self._sent:
                    driver.execute("EXPLAIN (COSTS OFF) " + statement, values, prepare=False)
            return (on_processor(pid) - began) * 1000 / _PLANS


_TELLING = (
    "LOAD 'auto_explain'",
    "SET auto_explain.log_level = notice",
    "SET auto_explain.log_format = json",
    "SET auto_explain.log_analyze = on",
    "SET auto_explain.log_timing = off",
)
_TOLD = re.compile(r"duration: ([\d.]+) ms  plan:\n(.*)", re.DOTALL)
_ON_EXECUTIONS = re.compile(r"\bexecutions\b")

_PARTS = text("""
SELECT part.relname, whole.relname FROM pg_inherits i
JOIN pg_class part ON part.oid = i.inhrelid JOIN pg_class whole ON whole.oid = i.inhparent
WHERE part.relkind = 'i'
""")
