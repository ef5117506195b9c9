"""`python -m benchmarks limits`: what limits by key cost, by how many keys and waiting executions.

An execution ends, the next one of its key is admitted, sent and claimed, from one connection,
without workers. Beside it a submission. The same without limits, with limits of the task, and with
a limit of the workspace, whose number is read from its row. The server doesn't wait for its disk.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

from sqlalchemy import text

from benchmarks.figures import Figure, Target
from benchmarks.history import database_alone, say
from benchmarks.meter import WARM, Meter
from celeriac.db.engine import Database
from celeriac.domain.accounts import Role
from celeriac.domain.executions.model import Claim, Completed, SubmitRequest
from celeriac.domain.tasks import DEFAULT_QUEUE, TaskSpec
from celeriac.domain.workspace_limits import LimitSpec
from celeriac.kit.words import counted
from tests.support.core import Core
from tests.support.workspace_limits import limits_of

_KEYS = (1, 1_000)
_FEW, _MANY = 5_000, 100_000
_SAMPLES, _QUICK_SAMPLES = 500, 20
_QUICK = 100
"""By how much fewer wait in a quick run."""

_KEY = "variables.key"
_PER_WORKER = 10
"""So many run in one worker process: a claim here renews its lease first, which reads all of it."""
_MOST_GROWTH = 1.3


def measure(*, quick: bool) -> Figure:
    """Measure without limits, and each kind of limit with each number of keys."""
    samples = _QUICK_SAMPLES if quick else _SAMPLES
    less = _QUICK if quick else 1
    measured: dict[str, Any] = {}
    for waiting in (_FEW // less, _MANY // less):
        for kind in ("no limits", "limit of the task", "limit of the workspace"):
            for keys in (1,) if kind == "no limits" else (1, _KEYS[1] // less):
                name = f"{kind}, {counted(keys, 'key')}, {waiting:,} waiting"
                say(name)
                with database_alone() as database:
                    measured[name] = _case(database, kind, keys, waiting, samples)
    return Figure("What do limits by key cost?", measured, _targets(measured, less))


def _case(
    database: Database, kind: str, keys: int, waiting: int, samples: int
) -> dict[str, Mapping[str, float]]:
    limits = [{"key": _KEY, "max": 1}] if kind == "limit of the task" else []
    core = Core(database, TaskSpec.model_validate({"concurrency": limits}))
    limit_id: UUID | None = None
    if kind == "limit of the workspace":
        admin = replace(core.actor, role=Role.ADMIN)
        service = limits_of(core)
        limit_id = service.create(admin, "bench", LimitSpec(key=_KEY, max=1)).id
    names = [_stored(kind, number) for number in range(keys)]
    running = deque(_begin(core, number, name) for number, name in enumerate(names))
    _fill(core, names, max(waiting, samples + WARM), limit_id, held=kind != "no limits")
    meter = Meter(database)
    passed = meter.times(_pass_on(core, running), samples)
    submitted = meter.times(_submit(core, keys), samples)
    return {
        "end_admit_send_claim": passed | {"per_second": round(1_000 / passed["p50_ms"])},
        "submission": submitted,
    }


def _stored(kind: str, number: int) -> str:
    """Return a key as executions have it."""
    return f"limit:bench:{number}" if kind == "limit of the workspace" else str(number)


def _begin(core: Core, number: int, name: str) -> tuple[Claim, str]:
    """Submit the first execution of a key, and claim it for a worker; return both."""
    request = SubmitRequest(task_id=core.task, variables={"key": str(number)})
    execution_id = core.submit(core.actor, request).execution_id
    core.queue.take(DEFAULT_QUEUE)
    worker = f"w{number // _PER_WORKER}"
    claim = core.claim(core.message(execution_id), worker)
    assert claim is not None, f"nobody else has the slot of {name}"
    return claim, worker


def _pass_on(core: Core, running: deque[tuple[Claim, str]]) -> Callable[[], None]:
    """Return a step: one ends, the next of its key gets the slot, is sent and claimed."""

    def step() -> None:
        claim, worker = running.popleft()
        core.end(claim, Completed(None))
        if claim.limit_keys:
            core.limits.of_keys(claim.workspace_id, claim.limit_keys)
        if (envelope := core.queue.take(DEFAULT_QUEUE)) is None:
            core.dispatch.send_eligible()
            envelope = core.queue.take(DEFAULT_QUEUE)
        assert envelope is not None, "the next one is sent"
        following = core.claim(envelope.message, worker)
        assert following is not None, "nobody else claims"
        running.append((following, worker))

    return step


def _submit(core: Core, keys: int) -> Callable[[], None]:
    """Return a step: one more execution is submitted, and waits."""
    requests = [
        SubmitRequest(task_id=core.task, variables={"key": str(number)}) for number in range(keys)
    ]
    following = deque(requests)

    def step() -> None:
        core.submit(core.actor, following[0])
        following.rotate(-1)

    return step


def _fill(core: Core, names: list[str], count: int, limit_id: UUID | None, *, held: bool) -> None:
    """Let executions wait, for the keys in turn."""
    parameters = {"count": count, "names": names, "task": core.task, "held": held}
    core.execute(_FILL, limit_id=limit_id, owner=core.actor.user_id, **parameters)
    with core.database.autocommit() as connection:
        connection.execute(text("VACUUM ANALYZE executions, execution_inputs, execution_limits"))


_FILL = text("""
WITH each AS (
    SELECT uuidv7() AS id, names[1 + n % cardinality(names)] AS key
    FROM generate_series(1, CAST(:count AS int)) AS n, (SELECT CAST(:names AS text[])) AS t (names)
), made AS (
    INSERT INTO executions (
        id, workspace_id, owner_id, task_id, task_version_id, agent_id, agent_version_id, status,
        trigger_type, execution_mode, priority, queue, created_at, available_at, held, attempt,
        max_crashes, event_seq, limit_keys)
    SELECT each.id, task.workspace_id, :owner, task.id, task.current_version_id, agent.id,
           agent.current_version_id, 'pending', 'manual', 'async', 0, 'task_execution', now(),
           now(), CASE WHEN CAST(:held AS boolean) THEN 'limit' END, 0, 3, 1,
           CASE WHEN CAST(:held AS boolean) THEN ARRAY[each.key] END
    FROM each, tasks AS task JOIN agents AS agent ON agent.id = task.agent_id
    WHERE task.id = :task
    RETURNING id, workspace_id
), lined AS (
    INSERT INTO execution_limits (execution_id, key, workspace_id, max, policy, state, place,
                                  limit_id)
    SELECT made.id, each.key, made.workspace_id, 1, 'queue', 'waiting', 100,
           CAST(:limit_id AS uuid)
    FROM made JOIN each ON each.id = made.id
    WHERE CAST(:held AS boolean)
)
INSERT INTO execution_inputs (execution_id, variables) SELECT id, '{}' FROM made
""")


def _targets(measured: dict[str, Any], less: int) -> list[Target]:
    """Return how the cost of each kind grows with what waits."""
    few, many = f"{_FEW // less:,} waiting", f"{_MANY // less:,} waiting"
    found = []
    for name, figures in measured.items():
        if not name.endswith(many):
            continue
        before = measured[name.replace(many, few)]
        for what, taken in figures.items():
            growth = taken["references"] / before[what]["references"]
            found.append(Target(f"{name}: growth of {what}", round(growth, 2), _MOST_GROWTH))
    return found
