"""Steps of runs: their rows, and what is due."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, TextClause, bindparam, text

from celeriac.db.executions.guards import with_guards
from celeriac.db.executions.run_items import SHARDS
from celeriac.db.paging import reader
from celeriac.domain.workflows.model import StepKind
from celeriac.domain.workflows.records import StepRun
from celeriac.domain.workflows.states import (
    STEP_TRANSITIONS,
    StepTransition,
)
from celeriac.kit.json_types import storable_text

_step = reader(StepRun)

_COLUMNS = """
s.run_id, s.step_no, s.step, s.kind, s.status, s.width, s.spawned, s.shards_left, s.round,
s.parallel, s.strict, s.stopping, s.continues, s.fork_path, s.due_at, s.started_at, s.completed_at,
s.error_code, s.error_message
"""

_ADD = text("""
INSERT INTO step_runs (run_id, step_no, step, kind, status, due_at)
SELECT :run_id, s.step_no, s.step, s.kind, 'blocked',
       CASE WHEN s.step_no = 1 AND CAST(:due AS boolean) THEN now() END
FROM unnest(CAST(:nos AS smallint[]), CAST(:steps AS text[]), CAST(:kinds AS text[]))
     AS s (step_no, step, kind)
""")


def add(
    connection: Connection,
    run_id: UUID,
    steps: Sequence[tuple[int, str, StepKind]],
    *,
    due: bool = True,
) -> None:
    """Insert the steps of a new run, with their places in the document.

    The first is `due`, so that the run begins.
    """
    parameters = {
        "run_id": run_id,
        "due": due,
        "nos": [no for no, _, _ in steps],
        "steps": [name for _, name, _ in steps],
        "kinds": [kind.value for _, _, kind in steps],
    }
    connection.execute(_ADD, parameters)


_OF_RUN = with_guards(
    """
SELECT {columns}, coalesce(f.remaining, 0) AS remaining, coalesce(f.completed, 0) AS completed,
       coalesce(f.failed, 0) AS failed, coalesce(f.cancelled, 0) AS cancelled
FROM step_runs s LEFT JOIN (
    SELECT step_no, CAST(sum(remaining) AS int) AS remaining,
           CAST(sum(completed) AS int) AS completed, CAST(sum(failed) AS int) AS failed,
           CAST(sum(cancelled) AS int) AS cancelled
    FROM fan_ins WHERE run_id = :run_id GROUP BY step_no
) f ON f.step_no = s.step_no
WHERE s.run_id = :run_id
ORDER BY s.step_no
""",
    {"columns": _COLUMNS},
)


def of_run(connection: Connection, run_id: UUID) -> list[StepRun]:
    """Return all steps of a run in the order of the document, with the numbers of their items.

    Undo steps follow, in the order of the steps that they undo.
    """
    return [_step(row) for row in connection.execute(_OF_RUN, {"run_id": run_id})]


_TAKE_DUE = text("""
SELECT step_no FROM step_runs
WHERE run_id = :run_id AND due_at IS NOT NULL
ORDER BY step_no
FOR NO KEY UPDATE
""")


def take_due(connection: Connection, run_id: UUID) -> list[int]:
    """Return the steps of a locked run that are due, locked.

    An item that ends now makes its step due after this transaction. Read the steps in a later
    statement: this one may have waited.
    """
    return list(connection.execute(_TAKE_DUE, {"run_id": run_id}).scalars())


_NOT_DUE = text("""
UPDATE step_runs SET due_at = NULL
WHERE run_id = :run_id AND step_no = ANY(CAST(:nos AS smallint[]))
""")


def clear_due(connection: Connection, run_id: UUID, nos: Sequence[int]) -> None:
    """Note that nothing is left to do for these steps, which the transaction has locked."""
    if nos:
        connection.execute(_NOT_DUE, {"run_id": run_id, "nos": list(nos)})


_IS_DUE = text("""
SELECT EXISTS (SELECT FROM step_runs WHERE run_id = :run_id AND due_at IS NOT NULL)
""")


def is_due(connection: Connection, run_id: UUID) -> bool:
    """Whether a step of a run is due."""
    return bool(connection.execute(_IS_DUE, {"run_id": run_id}).scalar_one())


_WAKE = text("""
UPDATE step_runs SET due_at = now()
WHERE (run_id, step_no) IN (
    SELECT run_id, step_no FROM step_runs WHERE run_id = :run_id
    ORDER BY status NOT IN ('blocked', 'ready', 'running'), step_no LIMIT 1)
  AND due_at IS NULL
""")


def wake(connection: Connection, run_id: UUID) -> None:
    """Make a run due that has not ended: by its first step that has not settled, or its first."""
    connection.execute(_WAKE, {"run_id": run_id})


_DUE_RUNS = text("""
SELECT run_id FROM step_runs
WHERE due_at IS NOT NULL AND due_at <= now() - make_interval(secs => :older_than)
ORDER BY due_at LIMIT :limit
""")


def due_runs(connection: Connection, *, older_than: float, limit: int) -> list[UUID]:
    """Return runs with steps that have been due for over `older_than` seconds."""
    parameters = {"older_than": older_than, "limit": limit}
    return list(dict.fromkeys(connection.execute(_DUE_RUNS, parameters).scalars()))


def _move(transition: StepTransition) -> TextClause:
    sources, target = STEP_TRANSITIONS[transition]
    return with_guards(
        """
        UPDATE step_runs
        SET status = '{target}', error_code = coalesce(:code, error_code),
            error_message = coalesce(:message, error_message){more}
        WHERE run_id = :run_id AND step_no = :step_no AND status IN ({sources})
        """,
        {
            "target": target,
            "sources": ", ".join(f"'{each}'" for each in sorted(sources)),
            "more": _ALSO.get(transition, _AT_END if target.terminal else ""),
        },
    )


_ALSO = {StepTransition.START: ", started_at = coalesce(started_at, now())"}
_AT_END = ", completed_at = now(), due_at = NULL"
_MOVES = {transition: _move(transition) for transition in StepTransition}


@dataclass(frozen=True, slots=True)
class Move:
    """A change of a step's status, with the error of one that fails."""

    step_no: int
    transition: StepTransition
    code: str | None = None
    message: str | None = None


def move(connection: Connection, run_id: UUID, moves: Sequence[Move]) -> None:
    """Change the status of steps of a locked run."""
    by_transition: dict[StepTransition, list[dict[str, object]]] = {}
    for each in moves:
        by_transition.setdefault(each.transition, []).append(
            {
                "run_id": run_id,
                "step_no": each.step_no,
                "code": each.code,
                "message": None if each.message is None else storable_text(each.message),
            }
        )
    for transition, parameters in by_transition.items():
        connection.execute(_MOVES[transition], parameters)


_BEGIN = text("""
WITH step AS (
    UPDATE step_runs
    SET width = :width, spawned = 0, round = :round, parallel = :parallel, strict = :strict,
        shards_left = least(:width, :shards), due_at = now()
    WHERE run_id = :run_id AND step_no = :step_no
)
INSERT INTO fan_ins (run_id, step_no, shard, remaining)
SELECT :run_id, :step_no, shard, (:width - shard + :shards - 1) / :shards
FROM generate_series(0, least(:width, :shards) - 1) AS shard
ON CONFLICT (run_id, step_no, shard)
DO UPDATE SET remaining = excluded.remaining, completed = 0, failed = 0, cancelled = 0
""").bindparams(bindparam("shards", SHARDS))


def begin(
    connection: Connection,
    run_id: UUID,
    step_no: int,
    *,
    width: int,
    round_no: int,
    parallel: int | None,
    strict: bool,
) -> int:
    """Set the counters of a step to `width` items, before the first of them is made.

    Returns how many rows of `fan_ins` it has.
    """
    parameters = {
        "run_id": run_id,
        "step_no": step_no,
        "width": width,
        "round": round_no,
        "parallel": parallel,
        "strict": strict,
    }
    connection.execute(_BEGIN, parameters)
    return min(width, SHARDS)


_STOP = text("""
UPDATE step_runs SET stopping = true, spawned = width, due_at = coalesce(due_at, now())
WHERE run_id = :run_id AND step_no = :step_no
""")


def stop(connection: Connection, run_id: UUID, step_no: int) -> None:
    """Note that no item of the step may begin any more.

    The caller counts those down that were not made.
    """
    connection.execute(_STOP, {"run_id": run_id, "step_no": step_no})


_SPAWNED = text("""
UPDATE step_runs
SET spawned = :spawned, due_at = CASE WHEN CAST(:due AS boolean) THEN due_at END
WHERE run_id = :run_id AND step_no = :step_no
""")


def set_spawned(
    connection: Connection, run_id: UUID, step_no: int, spawned: int, *, due: bool
) -> None:
    """Move the cursor of a step: so many of its items were made. Without `due` that was all."""
    parameters = {"run_id": run_id, "step_no": step_no, "spawned": spawned, "due": due}
    connection.execute(_SPAWNED, parameters)


_TAKE_OVER = (
    text("""
    UPDATE step_runs n
    SET status = o.status, width = o.width, spawned = o.width, round = o.round,
        started_at = o.started_at, completed_at = o.completed_at, error_code = o.error_code,
        error_message = o.error_message, continues = o.continues
    FROM step_runs o
    WHERE n.run_id = :run_id AND n.step_no = ANY(CAST(:nos AS smallint[]))
      AND o.run_id = :origin_id AND o.step_no = n.step_no
    """),
    text("""
    INSERT INTO fan_ins (run_id, step_no, shard, remaining, completed, failed, cancelled)
    SELECT :run_id, step_no, shard, remaining, completed, failed, cancelled
    FROM fan_ins WHERE run_id = :origin_id AND step_no = ANY(CAST(:nos AS smallint[]))
    """),
    text("""
    INSERT INTO step_items (run_id, step_no, item_no, round, execution_id, child_run_id,
                            approval_id, status, result, error_code, error_message, taken_over)
    SELECT :run_id, step_no, item_no, round, execution_id, child_run_id, approval_id, status,
           result, error_code, error_message, true
    FROM step_items WHERE run_id = :origin_id AND step_no = ANY(CAST(:nos AS smallint[]))
    """),
)


def take_over(connection: Connection, run_id: UUID, origin_id: UUID, nos: Sequence[int]) -> None:
    """Let a new run have the outcomes of steps of another run: their items are referred to."""
    parameters = {"run_id": run_id, "origin_id": origin_id, "nos": list(nos)}
    for statement in _TAKE_OVER:
        connection.execute(statement, parameters)


_CONTINUE = text("""
UPDATE step_runs s SET continues = true, fork_path = c.fork_path
FROM unnest(CAST(:nos AS smallint[]), CAST(:paths AS text[])) AS c (step_no, fork_path)
WHERE s.run_id = :run_id AND s.step_no = c.step_no
""")


def set_continues(connection: Connection, run_id: UUID, paths: Mapping[int, str | None]) -> None:
    """Let the runs of workflows of steps of a new run continue those of its origin.

    A step with a path forks one of them: see `StepRun.fork_path`.
    """
    if paths:
        parameters = {"run_id": run_id, "nos": list(paths), "paths": list(paths.values())}
        connection.execute(_CONTINUE, parameters)
