"""Fills a database with executions that have ended, and with what is stored beside them."""

import time
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from sqlalchemy import text

from celeriac.db import partitions, rollups
from celeriac.domain.rollups import Grain
from celeriac.kit.ids import uuid7_at
from tests.support.core import Core

DAYS = 180
_CHUNK = 50_000
_FOLDED = 200_000
"""About how many ends of the older part of one size are folded, which takes the longest."""

_MINUTES_KEPT_DAYS = 2.0
"""As the keeper keeps sums of minutes."""


class History:
    """Fills a database; what is rare is the oldest, so that no scan finds it early."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.rows = 0
        self.rare = uuid4()
        """The task, agent, batch, session and origin of the oldest executions."""
        self.begin = datetime.now(UTC) - timedelta(days=DAYS)
        with core.database.transaction() as connection:
            partitions.ensure(connection, [uuid7_at(self.begin), uuid7_at(datetime.now(UTC))])
        core.execute(_TASK, rare=self.rare, common=core.task)
        core.execute(_WORKER)  # so that what is submitted is sent
        # each workspace has sums of each of the last hours at every size, or statistics of a day
        # would read more rows only because the smallest history has gaps
        core.execute(_BUSY_DAY, workspace=core.actor.workspace_id, task=core.task)
        self._fold()
        actor = core.actor
        core.execute(
            _USAGE,
            workspace=actor.workspace_id,
            owner=actor.user_id,
            task=core.task,
            days=DAYS,
        )

    def fill(self, size: int) -> float:
        """Add history up to `size` executions, and return how long it took."""
        began = time.monotonic()
        # a larger history is as long, up to now, only denser: so it is added all over
        step = (datetime.now(UTC) - self.begin) / (size - self.rows)
        for first in range(self.rows, size, _CHUNK):
            count = min(_CHUNK, size - first)
            self._core.execute(
                _EXECUTIONS,
                first=first,
                count=count,
                begin=self.begin + (first - self.rows) * step,
                step=step.total_seconds(),
                workspace=self._core.actor.workspace_id,
                owner=self._core.actor.user_id,
                common=self._core.task,
                rare=self.rare,
                every=1 + (size - self.rows) // _FOLDED,
            )
            self._fold()
        self.rows = size
        with self._core.database.autocommit() as connection:
            connection.execute(text("VACUUM ANALYZE"))
        return time.monotonic() - began

    def _fold(self) -> None:
        """Fold the ends that were added, as the keeper does, and delete old sums of minutes."""
        with self._core.database.autocommit() as connection:
            while rollups.fold(connection, limit=_CHUNK):
                pass
            rollups.delete_old(
                connection, Grain.MINUTE, days=_MINUTES_KEPT_DAYS, limit=1_000_000_000
            )


_TASK = text("""
INSERT INTO tasks (id, workspace_id, owner_id, agent_id, name, current_version_id)
SELECT :rare, workspace_id, owner_id, agent_id, 'rare', current_version_id FROM tasks
WHERE id = :common
""")

_WORKER = text("""
INSERT INTO workers (id, hostname, pid, pool, slots, version, seen_at)
VALUES (gen_random_uuid(), 'w', 1, 'threads', 1000000, '', now() + interval '100 years')
""")

_BUSY_DAY = text("""
INSERT INTO execution_ends (workspace_id, task_id, ended_at, wait_ms, run_ms, input_tokens,
                            output_tokens, model_calls, retries, crashes, cost, outcome, queue)
SELECT CASE WHEN n = 50 THEN :workspace ELSE CAST(lpad(CAST(n AS text), 32, '0') AS uuid) END,
       :task, now() - make_interval(hours => hour), 10, 1000, 0, 0, 0, 0, 0, 0, 'completed',
       'task_execution'
FROM generate_series(0, 50) AS n, generate_series(0, 24) AS hour
""")

_USAGE = text("""
INSERT INTO usage_days (workspace_id, owner_id, day, task_id, provider, model, calls, input_tokens,
                        cost)
SELECT :workspace, :owner, current_date - day, :task, 'provider', 'model ' || model, 100, 100000,
       0.5
FROM generate_series(0, CAST(:days AS int)) AS day, generate_series(1, 10) AS model
""")

_EXECUTIONS = text("""
WITH made AS (
    INSERT INTO executions (
        id, workspace_id, owner_id, task_id, task_version_id, agent_id, agent_version_id, status,
        trigger_type, execution_mode, priority, queue, origin_id, batch_id, session_id,
        created_at, available_at, queued_at, started_at, attempt_started_at, completed_at, attempt,
        max_crashes, event_seq, error_code, error_type, error_message, error_fingerprint, labels,
        no_op, denied_tool_count, truncated)
    SELECT CAST(lpad(to_hex(CAST(extract(epoch FROM at) * 1000 AS bigint)), 12, '0')
                || '7000a' || right(md5(CAST(n AS text)), 15) AS uuid),
           CASE WHEN n % 4 = 0 THEN CAST(lpad(CAST(n / 4 % 50 AS text), 32, '0') AS uuid)
                ELSE CAST(:workspace AS uuid) END,
           CAST(:owner AS uuid),
           CASE WHEN rare THEN CAST(:rare AS uuid) ELSE CAST(:common AS uuid) END,
           task.current_version_id,
           CASE WHEN rare THEN CAST(:rare AS uuid) ELSE agent.id END, agent.current_version_id,
           status, CASE WHEN rare THEN 'webhook' ELSE 'manual' END, 'async', 0, 'task_execution',
           CASE WHEN rare THEN CAST(:rare AS uuid) END,
           CASE WHEN rare THEN CAST(:rare AS uuid) WHEN n % 50 = 0 THEN gen_random_uuid() END,
           CASE WHEN rare THEN CAST(:rare AS uuid) WHEN n % 50 = 1 THEN gen_random_uuid() END,
           at, at, at, at, at, at + make_interval(secs => 1 + n % 60), 1, 3, 4,
           CASE status WHEN 'failed' THEN CASE WHEN rare THEN 'rare' ELSE 'agent_failed' END END,
           CASE status WHEN 'failed' THEN 'ValueError' END,
           CASE status WHEN 'failed' THEN 'It went wrong.' END,
           CASE status WHEN 'failed' THEN CASE WHEN rare THEN '1:rare'
                                               ELSE '1:kind-' || n / 40 % 500 END END,
           -- a third has one to three labels
           CASE WHEN n % 3 = 1 THEN CAST(
               '{' || CASE WHEN n % 9 > 4 THEN '"customer": "c' || n % 1000 || '", ' ELSE '' END
               || CASE WHEN n % 9 = 7 THEN '"env": "prod", ' ELSE '' END
               || '"team": "' || CASE WHEN rare THEN 'rare' ELSE 't' || n % 5 END || '"}' AS json)
           END,
           n % 100 = 7, CASE WHEN n % 100 = 9 THEN 2 ELSE 0 END, n % 500 = 11
    FROM (SELECT n, n < 100 AND n % 4 > 0 AS rare,
                 CAST(:begin AS timestamptz) + make_interval(secs => (n - :first) * :step) AS at,
                 CASE WHEN n % 40 = 1 THEN 'failed' WHEN n % 200 = 3 THEN 'cancelled'
                      ELSE 'completed' END AS status
          FROM generate_series(CAST(:first AS int), CAST(:first + :count - 1 AS int)) AS n) AS each,
         tasks AS task JOIN agents AS agent ON agent.id = task.agent_id
    WHERE task.id = :common
    RETURNING *
), labelled AS (
    INSERT INTO execution_labels (workspace_id, key, value, execution_id)
    SELECT workspace_id, l.key, l.value, id FROM made, json_each_text(labels) AS l
), audited AS (
    INSERT INTO audit_logs (id, workspace_id, actor, action, resource_type, resource_id, details)
    SELECT id, workspace_id, 'user', 'execution.fail', 'execution', id::text, '{}' FROM made
    WHERE status = 'failed'
), ended AS (
    INSERT INTO execution_ends (
        workspace_id, task_id, ended_at, wait_ms, run_ms, input_tokens, output_tokens, model_calls,
        retries, crashes, denied_tools, no_op, cost, outcome, queue, execution_id, origin_id,
        fingerprint, error_code, error_type, error_message)
    SELECT workspace_id, task_id, completed_at, 10,
           1000 * extract(epoch FROM completed_at - started_at), 0, 0, 0, 0, 0, denied_tool_count,
           no_op, 0, status, queue, CASE WHEN error_fingerprint IS NOT NULL THEN id END, NULL,
           error_fingerprint, error_code, error_type, error_message
    FROM made
    -- of an old part as many as there are sums of hours; more would only make larger numbers
    WHERE completed_at > now() - interval '2 days' OR abs(hashtext(CAST(id AS text))) % :every = 0
), given AS (
    INSERT INTO execution_inputs (execution_id, variables)
    SELECT id, jsonb_build_object('text', repeat('a', 100)) FROM made
), produced AS (
    INSERT INTO execution_results (execution_id, result)
    SELECT id, jsonb_build_object('text', repeat('b', 200)) FROM made WHERE status = 'completed'
)
INSERT INTO events (execution_id, seq, type, attempt, at, data)
SELECT id, seq, CASE seq WHEN 4 THEN status ELSE kind END, least(seq - 1, 1), created_at,
       '{"worker": "w1@host"}'
FROM made, unnest(ARRAY['created', 'queued', 'started', '']) WITH ORDINALITY AS each (kind, seq)
""")
