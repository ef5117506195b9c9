"""`python -m benchmarks scale`: what history costs.

A database is filled with ended executions and what belongs to them (`benchmarks.seeds`), up to one
size after the other. At each size the statements that users and workers wait for are measured, from
one connection, without workers, and the reports (`benchmarks.reports`). The server doesn't wait for
its disk, whose times would hide the rest.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import text

from benchmarks import reports
from benchmarks.figures import Figure, Target
from benchmarks.meter import WARM, Meter
from benchmarks.seeds import DAYS, History
from celeriac.db import migrate, retention, usage
from celeriac.db.engine import Database
from celeriac.db.executions import queries
from celeriac.db.executions.lifecycle import NextClaim
from celeriac.domain.executions.flags import Flag
from celeriac.domain.executions.model import (
    Claim,
    Completed,
    ExecutionFilter,
    FailureKey,
    Message,
)
from celeriac.domain.executions.states import Status, WaitingFor
from celeriac.domain.executions.triggers import TriggerType
from celeriac.domain.labels import Label
from celeriac.domain.usage import UsageBy, UsageFilter
from celeriac.embedded.home import Home
from celeriac.embedded.postgres import Postgres
from celeriac.embedded.process import ManagedProcess
from celeriac.kit.ids import uuid7_at
from celeriac.logs import LogOptions, Service, configure, shutdown
from tests.support.core import Core
from tests.support.processes import start_and_wait

SIZES = (10_000, 1_000_000)
QUICK_SIZES = (500, 2_000)

_SAMPLES, _QUICK_SAMPLES = 100, 10
_PAGE = 50
_DELETED = 20
"""Executions that one step of retention deletes here."""

_MOST_GROWTH = 1.3
_MOST_LIST_MS = 30.0
_MOST_REPORT_MS = 60.0

Work = Callable[[], object]


def measure(sizes: Sequence[int], *, quick: bool) -> Figure:
    """Measure at each size, in ascending order."""
    measured: dict[str, Any] = {}
    with database_alone() as database:
        core = Core(database)
        history = History(core)
        for size in sorted(sizes):
            say(f"filling up to {size:,} executions")
            seconds = history.fill(size)
            say(f"measuring at {size:,}")
            measured[str(size)] = {
                "filled_seconds": round(seconds, 1),
                "database_megabytes": _megabytes(database),
                "index_megabytes": _index_megabytes(database),
                "statements": _measured(core, history, _QUICK_SAMPLES if quick else _SAMPLES),
            }
    first, *others = measured.values()
    for each in others:
        each["growth"] = _ratios(first["statements"], each["statements"])
    return Figure(
        "What do 10 thousand, a million, ten million executions of history cost?",
        measured,
        _targets(measured),
    )


@contextmanager
def database_alone() -> Iterator[Database]:
    """Yield a new database, on a server that does not wait for its disk."""
    with tempfile.TemporaryDirectory(prefix="celeriac-bench-") as directory:
        home = Home.open(Path(directory) / "home")
        postgres = Postgres.prepare(home, fast_unsafe=True)
        process = ManagedProcess(postgres.spec(), home.log_file("postgres"))
        configure(LogOptions(service=Service.API, directory=home.logs, console="off"))
        try:
            start_and_wait(process)
            migrate.upgrade(postgres.url())
            database = Database(postgres.url(), connections=4, statement_seconds=3_600)
            yield database
            database.close()
        finally:
            shutdown()
            process.stop()


def _measured(core: Core, history: History, samples: int) -> dict[str, dict[str, float]]:
    """Return the times of all that is measured, by name."""
    meter = Meter(core.database)
    found = _one_by_one(core, meter, samples)
    found["finish and claim the next"] = meter.times(turns(core, samples + WARM), samples)
    for name, wanted in filters(core, history).items():
        found[f"list: {name}"] = meter.times(listing(core, wanted), samples)
    with reports.of(core) as made:
        for name, work in made.items():
            found[f"report: {name}"] = meter.times(work, samples)
    found["usage by model"] = meter.times(_usage(core), samples)
    found[f"retention of {_DELETED}"] = meter.times(_retention(core), samples)
    core.execute("DELETE FROM executions WHERE status NOT IN ('completed', 'failed', 'cancelled')")
    return found


def _one_by_one(core: Core, meter: Meter, samples: int) -> dict[str, dict[str, float]]:
    made: list[UUID] = []
    claims: list[Claim] = []
    attempts = core.claiming()

    def claim() -> None:
        execution_id = made.pop()
        first = Message(execution_id, 0, str(execution_id))  # its task has the execution's id
        claimed = attempts(first, uuid4())
        assert claimed is not None, "nobody else can have it"
        claims.append(claimed)

    return {
        "submit": meter.times(lambda: made.append(core.queued()), samples),
        "claim": meter.times(claim, samples),
        "finish": meter.times(lambda: core.end(claims.pop(), Completed(None)), samples),
    }


def turns(core: Core, count: int) -> Work:
    """Return the step of a slot that ends an execution and claims the next; there are `count`."""
    running = [core.running()]
    core.pending_many([{}] * count)
    worker = core.worker()

    def step() -> None:
        following = NextClaim("task_execution", worker, uuid4())
        finished = core.finish(running.pop(), Completed(None), (), following)
        assert finished.claim is not None, "others are due"
        running.append(finished.claim)

    return step


def filters(core: Core, history: History) -> Mapping[str, dict[str, Any]]:
    """Return the filters of lists, by what they show."""
    middle = history.begin + timedelta(days=DAYS / 2)
    return {
        "all": {},
        "a later page": {"before": uuid7_at(middle)},
        **{f"status {each}": {"statuses": (each,)} for each in Status},
        "several statuses": {"statuses": (Status.FAILED, Status.CANCELLED, Status.RUNNING)},
        "task": {"task_id": core.task},
        "rare task": {"task_id": history.rare},
        "agent": {"agent_id": history.rare},
        "batch": {"batch_id": history.rare},
        "origin": {"origin_id": history.rare},
        "session": {"session_id": history.rare},
        **{f"trigger {each}": {"trigger_type": each} for each in TriggerType},
        "error": {"error_code": "agent_failed"},
        "rare error": {"error_code": "rare"},
        "label": {"labels": (Label("team", "t1"),)},
        "rare label": {"labels": (Label("team", "rare"),)},
        "two labels": {"labels": (Label("team", "t1"), Label("env", "prod"))},
        "without a label": {"without_labels": (Label("team", "t1"),)},
        **{f"flag {each}": {"flag": each} for each in Flag},
        "failure": {"failure": FailureKey(core.task, "1:kind-0")},
        "rare failure": {"failure": FailureKey(history.rare, "1:rare")},
        "waiting for": {"waiting_for": WaitingFor.APPROVAL},
        "cancellable": {"cancellable": True},
        "after a time": {"created_after": middle},
        "before a time": {"created_before": middle},
    }


def listing(core: Core, values: Mapping[str, Any]) -> Work:
    """Return a list of a workspace: there are no others."""
    before = values.get("before")
    rest = {name: value for name, value in values.items() if name != "before"}
    wanted = ExecutionFilter(workspace_id=core.actor.workspace_id, **rest)

    def read() -> None:
        with core.database.autocommit() as connection:
            queries.find(connection, wanted, before=before, limit=_PAGE)

    return read


def _usage(core: Core) -> Work:
    today = datetime.now(UTC).date()
    wanted = UsageFilter(
        since=today - timedelta(days=30), until=today, workspace_id=core.actor.workspace_id
    )

    def read() -> None:
        with core.database.autocommit() as connection:
            usage.totals(connection, UsageBy.MODEL, wanted, limit=100)

    return read


def _retention(core: Core) -> Work:
    """Return one step of retention; `filters` need the oldest rows, so it begins after them."""
    after = UUID(int=0)
    with core.database.autocommit() as connection:
        after = retention.old_executions(
            connection, days=1, after=after, bound=UUID(int=2**128 - 1), limit=120
        )[-1]

    def step() -> None:
        with core.database.autocommit() as connection:
            old = retention.old_executions(
                connection, days=30, after=after, bound=UUID(int=2**128 - 1), limit=_DELETED
            )
            retention.delete_executions(connection, old)

    return step


def _ratios(
    first: Mapping[str, Mapping[str, float]], then: Mapping[str, Mapping[str, float]]
) -> dict[str, float]:
    return {
        name: round(then[name]["references"] / max(first[name]["references"], 0.001), 2)
        for name in first
    }


def _targets(measured: Mapping[str, Any]) -> list[Target]:
    targets = []
    for size, found in measured.items():
        for kind, most in (("list", _MOST_LIST_MS), ("report", _MOST_REPORT_MS)):
            times = {n: t["p99_ms"] for n, t in found["statements"].items() if n.startswith(kind)}
            slowest = max(times, key=lambda name: times[name])
            targets.append(Target(f"{size}: p99 of {slowest}", times[slowest], most))
        if ratios := found.get("growth"):
            worst = max(ratios, key=lambda name: ratios[name])
            targets.append(Target(f"{size}: growth of {worst}", ratios[worst], _MOST_GROWTH))
    return targets


def _megabytes(database: Database) -> int:
    with database.autocommit() as connection:
        size = connection.execute(text("SELECT pg_database_size(current_database())"))
        return round(int(size.scalar_one()) / 1_000_000)


def _index_megabytes(database: Database) -> dict[str, float]:
    with database.autocommit() as connection:
        rows = connection.execute(_INDEXES)
        return {row[0]: round(row[1] / 1_000_000, 1) for row in rows}


_INDEXES = text("""
SELECT indexrelname, pg_relation_size(indexrelid) FROM pg_stat_user_indexes
WHERE relname = 'executions' ORDER BY 2 DESC
""")


def say(line: str) -> None:
    """Say what is done now."""
    print(f"{line} ...", file=sys.stderr, flush=True)
