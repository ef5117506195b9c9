"""(j) Ends of the items of one map, counted down in 1, 8 and 32 rows, by 1, 8 and 32 connections.

Only the part of the ending statement that counts down is sent, alone and with a commit that waits
for the disk, for one item at a time. Workers end many items in one statement.
"""

import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

from sqlalchemy import TextClause, text

from benchmarks.figures import Figure
from benchmarks.scale import Scale
from benchmarks.stage import Stage
from celeriac.db.engine import Database
from celeriac.db.executions.guards import with_guards
from celeriac.db.executions.run_items import SHARDS, counting_down
from celeriac.kit.ids import uuid7
from celeriac.kit.words import counted

_ROWS = (1, 8, SHARDS)
_CONNECTIONS = (1, 8, 32)

_STEP = text("""
INSERT INTO step_runs (run_id, step_no, step, kind, status, width, spawned, shards_left, round)
VALUES (:run_id, 1, 'each', 'task', 'running', :width, :width, least(:width, :shards), 1)
""")
_FAN_INS = text("""
INSERT INTO fan_ins (run_id, step_no, shard, remaining)
SELECT :run_id, 1, shard, (:width - shard + :shards - 1) / :shards
FROM generate_series(0, least(:width, :shards) - 1) AS shard
""")
_END = """
WITH ended AS (
    SELECT CAST(:run_id AS uuid) AS run_id, CAST(1 AS smallint) AS step_no,
           CAST(:item_no AS int) AS item_no, 'completed' AS status
){count_down}
SELECT count(*) FROM items_counted
"""
_LEFT = text("SELECT shards_left, due_at IS NOT NULL FROM step_runs WHERE run_id = :run_id")


def measure(stage: Stage, scale: Scale) -> Figure:
    """Measure each number of rows with each number of connections, in turn."""
    url = stage.container.database.engine.url.render_as_string(hide_password=False)
    database = Database(url, connections=max(_CONNECTIONS) + 1)
    seconds: dict[tuple[int, int], list[float]] = {}
    try:
        for _ in range(scale.flow_rounds):
            for connections in _CONNECTIONS:
                for rows in _ROWS:
                    took = _ended(database, scale.counted, rows, connections)
                    seconds.setdefault((rows, connections), []).append(took)
    finally:
        database.close()
    return Figure(
        "How fast do the items of one map end, by rows that count them and connections?",
        {"items": scale.counted, "ends_per_second": _rates(scale.counted, seconds)},
    )


def _rates(items: int, seconds: dict[tuple[int, int], list[float]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for (rows, connections), took in seconds.items():
        of_rows = found.setdefault(counted(rows, "row"), {})
        of_rows[counted(connections, "connection")] = round(items / statistics.median(took))
    return found


def _ended(database: Database, width: int, shards: int, connections: int) -> float:
    """End all items of a new step; return how many seconds that took."""
    run_id = uuid7()
    with database.transaction() as connection:
        for statement in (_STEP, _FAN_INS):
            connection.execute(statement, {"run_id": run_id, "width": width, "shards": shards})
    parts = counting_down(shards).items()
    end = with_guards(
        _END, {"count_down": "".join(f", {name} AS ({part})" for name, part in parts)}
    )
    begin = time.perf_counter()
    with ThreadPoolExecutor(connections) as pool:
        shares = [range(first, width, connections) for first in range(connections)]
        list(pool.map(lambda share: _end_each(database, end, run_id, share), shares))
    took = time.perf_counter() - begin
    with database.autocommit() as connection:
        left, due = connection.execute(_LEFT, {"run_id": run_id}).one()
    if (left, due) != (0, True):
        raise RuntimeError(f"{left} rows are left, and the step is due: {due}")
    return took


def _end_each(database: Database, end: TextClause, run_id: UUID, items: Sequence[int]) -> None:
    for item in items:
        with database.autocommit() as connection:
            connection.execute(end, {"run_id": run_id, "item_no": item})
