"""What must hold of all executions in a database at any time, whatever happened to the servers."""

from itertools import groupby
from uuid import UUID

from sqlalchemy import Connection, text

from celeriac.db.engine import Database
from celeriac.domain.executions.events import EventType
from tests.support.replay import replay

_FAULTS = {
    "events are not numbered 1..n, with n on the row": """
        SELECT e.id FROM executions e
        LEFT JOIN events v ON v.execution_id = e.id
        GROUP BY e.id, e.event_seq
        HAVING count(v.seq) <> e.event_seq OR min(v.seq) <> 1 OR max(v.seq) <> e.event_seq""",
    "an event belongs to no execution": """
        SELECT v.execution_id FROM events v
        WHERE NOT EXISTS (SELECT FROM executions e WHERE e.id = v.execution_id)
          AND NOT EXISTS (SELECT FROM workflow_runs r WHERE r.id = v.execution_id)""",
    "an input or a result belongs to no execution": """
        SELECT execution_id FROM (
            SELECT execution_id FROM execution_inputs
            UNION ALL SELECT execution_id FROM execution_results) AS stored
        WHERE NOT EXISTS (SELECT FROM executions e WHERE e.id = execution_id)""",
    "labels are not those of the row": """
        SELECT coalesce(l.execution_id, e.id) FROM execution_labels l
        FULL JOIN (SELECT id, workspace_id, r.key, r.value
                   FROM executions, json_each_text(labels) AS r) AS e
               ON e.id = l.execution_id AND e.workspace_id = l.workspace_id AND e.key = l.key
              AND e.value = l.value
        WHERE e.id IS NULL OR l.execution_id IS NULL""",
    "the details of an error are not those of the row's": """
        SELECT e.id FROM executions e LEFT JOIN execution_results r ON r.execution_id = e.id
        WHERE left(r.error_details->>'type', 200) IS DISTINCT FROM e.error_type""",
    "more than one terminal event": """
        SELECT execution_id FROM events WHERE type IN ('completed', 'failed', 'cancelled')
        GROUP BY execution_id HAVING count(*) > 1""",
    "the last event and the status disagree about the end": """
        SELECT e.id FROM executions e
        JOIN events v ON v.execution_id = e.id AND v.seq = e.event_seq
        WHERE (e.status IN ('completed', 'failed', 'cancelled')
               OR v.type IN ('completed', 'failed', 'cancelled'))
          AND e.status <> v.type""",
    "attempts go backwards in the log": """
        SELECT execution_id FROM (
            SELECT execution_id, attempt,
                   lag(attempt) OVER (PARTITION BY execution_id ORDER BY seq) AS before
            FROM events) AS steps
        WHERE attempt < before""",
    "an attempt was started twice": """
        SELECT execution_id FROM events WHERE type = 'started'
        GROUP BY execution_id, attempt HAVING count(*) > 1""",
    "the row's attempt is not the number of starts": """
        SELECT e.id FROM executions e
        WHERE e.attempt <> (SELECT count(*) FROM events v
                            WHERE v.execution_id = e.id AND v.type = 'started')""",
    "crashes or retries are not as often in the log": """
        SELECT e.id FROM executions e
        WHERE e.crash_count <> (SELECT count(*) FROM events v
                                WHERE v.execution_id = e.id AND v.type = 'worker_lost')""",
    "something runs without a lease": """
        SELECT id FROM executions
        WHERE status = 'running' AND (lease_token IS NULL OR worker_id IS NULL)""",
    "the end's time is set on what goes on, or lacks on what has ended": """
        SELECT id FROM executions
        WHERE (status IN ('completed', 'failed', 'cancelled')) <> (completed_at IS NOT NULL)""",
    "what waits waits for nothing that could end it": """
        SELECT id FROM executions e
        WHERE status = 'waiting' AND waiting_until IS NULL
          AND NOT EXISTS (SELECT FROM live_children c
                          WHERE c.execution_id = e.id AND c.shard = 0 AND c.live > 0)
          AND NOT EXISTS (SELECT FROM approvals a
                          WHERE a.execution_id = e.id AND a.status = 'open')""",
    "the reason of waiting is on what doesn't wait, or lacks on what does": """
        SELECT id FROM executions
        WHERE (status = 'waiting') <> (waiting_for IS NOT NULL)
           OR waiting_until IS NOT NULL AND status <> 'waiting'""",
    "what isn't pending is held, or what isn't due isn't": """
        SELECT id FROM executions
        WHERE held IS NOT NULL AND status <> 'pending'
           OR held IS NULL AND status = 'pending' AND available_at > now()""",
    "the counters of children are not the children": """
        SELECT coalesce(c.execution_id, e.parent_id)
        FROM (SELECT execution_id, sum(live) AS live, count(*) FILTER (WHERE live > 0) AS shards
              FROM live_children WHERE shard > 0 GROUP BY 1) AS c
        FULL JOIN (SELECT parent_id, count(*) AS live FROM executions
                   WHERE parent_id IS NOT NULL AND completed_at IS NULL GROUP BY 1) AS e
            ON e.parent_id = c.execution_id
        LEFT JOIN live_children t ON t.execution_id = c.execution_id AND t.shard = 0
        WHERE coalesce(c.live, 0) <> coalesce(e.live, 0)
           OR coalesce(t.live, 0) <> coalesce(c.shards, 0)""",
    "a tree has more executions than it counts": """
        SELECT e.root_id FROM executions e LEFT JOIN execution_trees t ON t.execution_id = e.root_id
        WHERE e.root_id IS NOT NULL
        GROUP BY e.root_id, t.started HAVING count(*) > coalesce(t.started, 0)""",
    "what a budget has reserved is not the sum of its reservations": """
        SELECT w.budget_id FROM budget_windows w
        LEFT JOIN budget_reservations r USING (budget_id, window_key)
        GROUP BY w.budget_id, w.window_key
        HAVING w.reserved_tokens <> coalesce(sum(r.tokens), 0)
            OR w.reserved_cost <> coalesce(sum(r.cost), 0)""",
    "usage by day has less than the model calls": """
        SELECT e.task_id FROM model_calls c JOIN executions e ON e.id = c.execution_id
        WHERE NOT starts_with(c.provider, 'cassette/')
        GROUP BY e.task_id
        HAVING sum(c.input_tokens + c.output_tokens) > coalesce(
            (SELECT sum(d.input_tokens + d.output_tokens) FROM usage_entries d
             WHERE d.task_id = e.task_id), 0)""",
    "a Celery task counts other executions than those that have not ended": """
        SELECT c.subject_id FROM celery_calls c
        LEFT JOIN executions e ON coalesce(e.batch_id, e.id) = c.subject_id
        WHERE c.kind <> 'workflow'
        GROUP BY c.id
        HAVING c.pending <> count(*) FILTER (
                   WHERE e.status NOT IN ('completed', 'failed', 'cancelled'))
            OR (c.pending = 0) <> (c.due_at IS NOT NULL OR c.ended_at IS NOT NULL)""",
    "a session has not all messages that it counts": """
        SELECT s.id FROM sessions s
        WHERE s.status <> 'deleted' AND s.message_count <> (
            SELECT count(*) FROM session_messages m
            WHERE m.session_id = s.id AND m.seq BETWEEN 1 AND s.message_count)""",
    "messages are left of a session that is deleted": """
        SELECT m.session_id FROM session_messages m
        WHERE NOT EXISTS (SELECT FROM sessions s
                          WHERE s.id = m.session_id
                            AND (s.status <> 'deleted' OR s.files_removed_at IS NULL))""",
    "questions and answers are not as often in the log": """
        SELECT e.id FROM executions e
        WHERE (SELECT count(*) FROM approvals a WHERE a.execution_id = e.id)
              <> (SELECT count(*) FROM events v
                  WHERE v.execution_id = e.id AND v.type = 'approval_asked')
           OR (SELECT count(*) FROM approvals a
               WHERE a.execution_id = e.id AND a.status IN ('answered', 'expired'))
              <> (SELECT count(*) FROM events v
                  WHERE v.execution_id = e.id AND v.type = 'approval_answered')""",
    "a question has an answer that it should not have, or lacks one": """
        SELECT id FROM approvals
        WHERE (status IN ('answered', 'expired')) <> (approved IS NOT NULL)
           OR (status IN ('answered', 'expired')) <> (answered_at IS NOT NULL)""",
    "a question of what has ended is open": """
        SELECT a.id FROM approvals a JOIN executions e ON e.id = a.execution_id
        WHERE a.status = 'open' AND e.status IN ('completed', 'failed', 'cancelled')""",
    "questions of steps and their answers are not as often in the log": """
        SELECT r.id FROM workflow_runs r
        WHERE (SELECT count(*) FROM approvals a WHERE a.run_id = r.id)
              <> (SELECT count(*) FROM events v
                  WHERE v.execution_id = r.id AND v.type = 'approval_asked')
           OR (SELECT count(*) FROM approvals a
               WHERE a.run_id = r.id AND a.status IN ('answered', 'expired'))
              <> (SELECT count(*) FROM events v
                  WHERE v.execution_id = r.id AND v.type = 'approval_answered')""",
    "a question of a run or a step that has ended is open": """
        SELECT a.id FROM approvals a
        LEFT JOIN workflow_runs r ON r.id = a.run_id
        LEFT JOIN step_runs s ON s.run_id = a.run_id AND s.step_no = a.step_no
        WHERE a.status = 'open' AND a.run_id IS NOT NULL
          AND (r.id IS NULL OR r.completed_at IS NOT NULL OR s.status <> 'running')""",
    "an item has another outcome than its question": """
        SELECT a.id FROM approvals a
        JOIN step_items i ON i.approval_id = a.id AND i.run_id = a.run_id
        WHERE i.status <> CASE WHEN a.status = 'open' THEN 'running'
                               WHEN a.status = 'withdrawn' THEN 'cancelled'
                               WHEN a.approved THEN 'completed'
                               WHEN a.status = 'expired' AND a.on_expiry = 'fail' THEN 'failed'
                               ELSE 'denied' END""",
    "a session is active and all its executions have ended": """
        SELECT s.id FROM sessions s JOIN executions e ON e.session_id = s.id
        WHERE s.status = 'active'
        GROUP BY s.id HAVING bool_and(e.status IN ('completed', 'failed', 'cancelled'))""",
    "a limit has more runs than it lets run": """
        SELECT min(CAST(h.run_id AS text)) FROM run_limits h
        WHERE h.state = 'held' AND h.limit_id IS NULL
        GROUP BY h.workspace_id, h.key HAVING count(*) > max(h.max)""",
    "what has ended has a limit, or what has begun waits with others, or a pending run doesn't": """
        SELECT coalesce(l.run_id, r.id) FROM workflow_runs r
        FULL JOIN run_limits l ON l.run_id = r.id
        WHERE r.id IS NULL
           OR r.completed_at IS NOT NULL AND l.run_id IS NOT NULL
           OR (r.status = 'pending') AND l.state IS DISTINCT FROM 'waiting'
           OR l.state = 'waiting' AND r.status <> 'pending' AND l.place <> 0""",
    "a limit has more executions than it lets run": """
        SELECT min(CAST(h.execution_id AS text)) FROM execution_limits h
        WHERE h.state = 'held' AND h.interval_seconds IS NULL AND h.limit_id IS NULL
        GROUP BY h.workspace_id, h.key HAVING count(*) > max(h.max)""",
    "the slots of an execution are not those that its status needs": """
        SELECT e.id FROM executions e
        WHERE e.limit_keys IS NOT NULL AND ARRAY(
            SELECT l.key || ' ' || CASE WHEN l.state = 'elsewhere' THEN 'waiting' ELSE l.state END
            FROM execution_limits l WHERE l.execution_id = e.id ORDER BY l.key)
            <> ARRAY(
            SELECT k || ' ' || CASE
                WHEN e.status IN ('queued', 'running') OR e.status = 'pending' AND e.held IS NULL
                THEN 'held' WHEN e.held = 'limit' THEN 'waiting'
                ELSE coalesce((SELECT min(l.state) FROM execution_limits l
                               WHERE l.execution_id = e.id AND l.state = 'held'
                                 AND e.held = 'time'), 'none') END
            FROM unnest(e.limit_keys) k WHERE e.completed_at IS NULL ORDER BY k)""",
    "an execution waits in several lines of limits, or in none": """
        SELECT execution_id FROM execution_limits GROUP BY execution_id
        HAVING count(*) FILTER (WHERE state = 'waiting') > 1
            OR bool_or(state = 'elsewhere') AND NOT bool_or(state = 'waiting')""",
    "a limit belongs to no execution": """
        SELECT execution_id FROM execution_limits l
        WHERE NOT EXISTS (SELECT FROM executions e
                          WHERE e.id = l.execution_id AND e.completed_at IS NULL)""",
    "more crashes than allowed": "SELECT id FROM executions WHERE crash_count > max_crashes",
}


def assert_consistent(database: Database) -> None:
    """Fail, naming rule and executions, where the tables contradict each other."""
    with database.autocommit() as connection:
        found = contradictions(connection)
        _assert_logs_lead_to_statuses(connection)
    broken = {rule: ids[:5] for rule, ids in found.items()}
    assert not broken, f"the database contradicts itself: {broken}"


def contradictions(connection: Connection) -> dict[str, list[UUID]]:
    """Return the rules that are broken, with what breaks them: mostly ids of executions."""
    found = {
        rule: list(connection.execute(text(query)).scalars()) for rule, query in _FAULTS.items()
    }
    return {rule: ids for rule, ids in found.items() if ids}


def _assert_logs_lead_to_statuses(connection: Connection) -> None:
    """Walk each log through the table of states, which must lead to the status of its row."""
    query = text(
        "SELECT v.execution_id, v.type, e.status FROM events v"
        " JOIN executions e ON e.id = v.execution_id ORDER BY v.execution_id, v.seq"
    )
    rows = connection.execute(query).all()
    for execution_id, steps in groupby(rows, key=lambda row: row[0]):
        log = list(steps)
        reached = replay(EventType(row[1]) for row in log)
        assert reached == log[0][2], f"{execution_id} is {log[0][2]}, its log says {reached}"
