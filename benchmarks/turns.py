"""`python -m benchmarks turns`: what fair turns cost, by how many owners and executions wait.

A slot ends executions one after the other, each with the claim of the next one in turn, from one
connection, without workers. The server doesn't wait for its disk.
"""

import itertools
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from sqlalchemy import text

from benchmarks.figures import Figure, Target
from benchmarks.history import database_alone, say
from benchmarks.meter import WARM, Meter
from celeriac.db.executions.lifecycle import NextClaim
from celeriac.domain.executions.model import Completed
from celeriac.domain.tasks import DEFAULT_QUEUE
from celeriac.kit.words import counted
from tests.support.core import Core

_OWNERS = (1, 10, 1_000, 10_000)
_WAITING = (0, 100_000, 1_000_000)
_HELD = 100_000
_SAMPLES, _QUICK_SAMPLES = 500, 20
_QUICK = 1_000
"""By how much fewer wait in a quick run."""

_MOST_GROWTH = 1.3


def measure(*, quick: bool) -> Figure:
    """Measure each number of owners with each number of waiting executions."""
    samples = _QUICK_SAMPLES if quick else _SAMPLES
    measured: dict[str, Any] = {}
    with database_alone() as database:
        core = Core(database)
        less = _QUICK if quick else 1
        for waiting, owners in itertools.product(_WAITING, _OWNERS):
            name = f"{counted(owners // less or 1, 'owner')}, {waiting // less:,} waiting"
            say(name)
            measured[name] = _turns(core, owners // less or 1, waiting // less, samples)
        held = _HELD // less
        say(f"{held:,} held")
        _fill(core, owners=10, count=held, held=True)
        measured[f"10 owners, {held:,} held"] = _turns(core, 10, 0, samples)
    return Figure("What do fair turns cost?", measured, _targets(measured))


def _turns(core: Core, owners: int, waiting: int, samples: int) -> dict[str, float]:
    """Return the times of an end that claims the next in turn."""
    count = max(waiting, owners, samples + WARM)
    _fill(core, owners=owners, count=count, held=False)
    times = Meter(core.database).times(_end_and_claim(core), samples)
    core.execute("DELETE FROM executions WHERE held IS NULL")
    _vacuum(core)
    return times | {"turns_per_second": round(1_000 / times["p50_ms"])}


def _end_and_claim(core: Core) -> Callable[[], None]:
    running, worker, turns = [core.running()], core.worker(), core.dispatch.turns

    def step() -> None:
        turns.found(DEFAULT_QUEUE)
        following = NextClaim(DEFAULT_QUEUE, worker, uuid4(), turns.next(DEFAULT_QUEUE, 1))
        finished = core.finish(running.pop(), Completed(None), (), following)
        assert finished.claim is not None, "others are due"
        running.append(finished.claim)

    return step


def _fill(core: Core, *, owners: int, count: int, held: bool) -> None:
    """Let executions wait: the first owner has half of them, if there are others."""
    core.execute(_FILL, owners=owners, count=count, held=held, task=core.task)
    _vacuum(core)


def _vacuum(core: Core) -> None:
    with core.database.autocommit() as connection:
        connection.execute(text("VACUUM ANALYZE executions"))


_FILL = text("""
WITH made AS (
    INSERT INTO executions (
        id, workspace_id, owner_id, task_id, task_version_id, agent_id, agent_version_id, status,
        trigger_type, execution_mode, priority, queue, created_at, available_at, held, attempt,
        max_crashes, event_seq)
    SELECT uuidv7(), CAST(lpad(to_hex(owner / 10), 32, '0') AS uuid),
           CAST(lpad(to_hex(owner), 32, '0') AS uuid), task.id, task.current_version_id, agent.id,
           agent.current_version_id, 'pending', 'manual', 'async', 0, 'task_execution', now(),
           now(), CASE WHEN CAST(:held AS boolean) THEN 'limit' END, 0, 3, 1
    FROM (SELECT CASE WHEN n % 2 = 0 THEN 1 ELSE 1 + n / 2 % CAST(:owners AS int) END AS owner
          FROM generate_series(1, CAST(:count AS int)) AS n) AS each,
         tasks AS task JOIN agents AS agent ON agent.id = task.agent_id
    WHERE task.id = :task
    RETURNING id
)
INSERT INTO execution_inputs (execution_id, variables) SELECT id, '{}' FROM made
""")


def _targets(measured: dict[str, Any]) -> list[Target]:
    first, *others = measured.items()
    least = first[1]["references"]
    return [
        Target(
            f"{name}: growth of processor time",
            round(found["references"] / least, 2),
            _MOST_GROWTH,
        )
        for name, found in others
    ]
