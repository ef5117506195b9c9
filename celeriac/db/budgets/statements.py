"""The guarded statements that hold budgets (docs/adr/0008-budgets.md).

Every one locks windows in the order of their keys, so that none waits for another in a ring. A
window that doesn't exist yet begins with what was used since its start, by the totals of usage: a
call is in the totals of the day whose windows it was booked in; what a cassette answered counts in
no window. Every statement that books has the call's ticket as its key: repeated, it books nothing.
"""

from sqlalchemy import text

_WINDOW_KEY = """to_char(now() AT TIME ZONE 'UTC',
                   CASE b.period WHEN 'day' THEN 'YYYY-MM-DD' ELSE 'YYYY-MM' END)"""

_APPLYING = (
    """
WITH applying AS (
    SELECT b.id, b.scope, b.subject_id, b.max_cost, b.max_tokens, b.on_budget,
           """
    + _WINDOW_KEY
    + """ AS window_key,
           CAST(date_trunc(b.period, now() AT TIME ZONE 'UTC') AS date) AS since
    FROM budgets b
    WHERE b.subject_id IN (CAST(:owner_id AS uuid), CAST(:task_id AS uuid))
    UNION ALL
    SELECT CAST(:execution_id AS uuid), 'execution', CAST(:execution_id AS uuid),
           CAST(:own_cost AS numeric), CAST(:own_tokens AS bigint), CAST(:own_on_budget AS text),
           'run', NULL
    WHERE CAST(:own_on_budget AS text) IS NOT NULL
)"""
)

_LOCKED = """, standing AS MATERIALIZED (
    SELECT a.id, a.scope, a.subject_id, a.window_key, a.on_budget,
           a.max_cost + w.extra_cost AS max_cost, a.max_tokens + w.extra_tokens AS max_tokens,
           w.spent_cost, w.spent_tokens, w.reserved_cost, w.reserved_tokens, w.raised
    FROM applying a
    JOIN budget_windows w ON w.budget_id = a.id AND w.window_key = a.window_key
    ORDER BY w.budget_id, w.window_key
    FOR UPDATE OF w
)"""

RESERVE = text(
    _APPLYING
    + _LOCKED
    + """
, verdict AS (
    SELECT count(*) = (SELECT count(*) FROM applying) AS complete,
           coalesce(bool_and(
               -- something is left ...
               (s.max_cost IS NULL OR s.spent_cost < s.max_cost)
               AND (s.max_tokens IS NULL OR s.spent_tokens < s.max_tokens)
               -- ... the least that the call needs fits ...
               AND (s.max_cost IS NULL
                    OR s.spent_cost + CAST(:least_cost AS numeric) <= s.max_cost)
               AND (s.max_tokens IS NULL OR s.spent_tokens + :least_tokens <= s.max_tokens)
               -- ... a price is known where money is bounded ...
               AND (s.max_cost IS NULL OR CAST(:cost AS numeric) IS NOT NULL)
               -- ... and the call fits, or is the only one under way
               AND (s.reserved_tokens = 0 AND s.reserved_cost = 0
                    OR (s.max_cost IS NULL
                        OR s.spent_cost + s.reserved_cost + CAST(:cost AS numeric) <= s.max_cost)
                       AND (s.max_tokens IS NULL
                            OR s.spent_tokens + s.reserved_tokens + :tokens <= s.max_tokens))
           ), true) AS fits,
           -- reserved by a try whose answer got lost
           (SELECT max(r.created_at) FROM budget_reservations r WHERE r.id = :ticket) AS known_at
    FROM standing s
), holder AS (
    SELECT e.id FROM executions e
    WHERE e.id = :execution_id AND e.attempt = :attempt AND e.lease_token = :token
      AND e.lease_until IS NOT NULL
), noted AS (
    INSERT INTO budget_reservations (id, budget_id, window_key, execution_id, attempt, cost, tokens)
    SELECT :ticket, s.id, s.window_key, :execution_id, :attempt,
           coalesce(CAST(:cost AS numeric), 0), :tokens
    FROM standing s, verdict v, holder
    WHERE v.complete AND v.fits AND v.known_at IS NULL
    ON CONFLICT DO NOTHING
    RETURNING budget_id, window_key, cost, tokens
), taken AS (
    UPDATE budget_windows w
    SET reserved_cost = w.reserved_cost + n.cost, reserved_tokens = w.reserved_tokens + n.tokens
    FROM noted n
    WHERE w.budget_id = n.budget_id AND w.window_key = n.window_key
)
SELECT v.complete, v.fits OR v.known_at IS NOT NULL, EXISTS (SELECT FROM holder),
       CAST(coalesce(v.known_at, now()) AT TIME ZONE 'UTC' AS date), s.id, s.scope, s.subject_id,
       s.window_key, s.on_budget, s.max_cost, s.max_tokens, s.spent_cost, s.spent_tokens,
       -- without what a try has reserved whose answer got lost
       s.reserved_cost - coalesce(k.cost, 0), s.reserved_tokens - coalesce(k.tokens, 0), s.raised
FROM verdict v LEFT JOIN standing s ON true
LEFT JOIN budget_reservations k
    ON k.id = :ticket AND k.budget_id = s.id AND k.window_key = s.window_key
"""
)

BEGIN_WINDOWS = text(
    _APPLYING
    + """
INSERT INTO budget_windows (budget_id, window_key, spent_cost, spent_tokens)
SELECT a.id, a.window_key, coalesce(sum(u.cost), 0), coalesce(sum(u.tokens), 0)
FROM applying a
LEFT JOIN LATERAL (
    SELECT d.cost, d.input_tokens + d.output_tokens AS tokens FROM usage_days d
    WHERE a.scope = 'user' AND d.owner_id = a.subject_id AND d.day >= a.since
      AND d.provider NOT LIKE 'cassette/%'
    UNION ALL
    SELECT d.cost, d.input_tokens + d.output_tokens FROM usage_days d
    WHERE a.scope = 'task' AND d.task_id = a.subject_id AND d.day >= a.since
      AND d.provider NOT LIKE 'cassette/%'
) u ON true
GROUP BY a.id, a.window_key
ORDER BY a.id, a.window_key
ON CONFLICT DO NOTHING
"""
)

SPEND = text(
    _APPLYING
    + _LOCKED
    + """
, verdict AS (
    SELECT count(*) = (SELECT count(*) FROM applying) AS complete FROM standing
), noted AS (
    -- holds nothing: it tells a try whose answer got lost from one that did nothing
    INSERT INTO budget_reservations (id, budget_id, window_key, execution_id, attempt, cost, tokens,
                                     released_at)
    SELECT :ticket, s.id, s.window_key, :execution_id, :attempt, 0, 0, now()
    FROM standing s, verdict v
    WHERE v.complete
    ON CONFLICT DO NOTHING
    RETURNING budget_id, window_key
), added AS (
    UPDATE budget_windows w
    SET spent_cost = w.spent_cost + :cost, spent_tokens = w.spent_tokens + :tokens
    FROM noted n
    WHERE w.budget_id = n.budget_id AND w.window_key = n.window_key
)
SELECT v.complete, true, true, CAST(now() AT TIME ZONE 'UTC' AS date), s.id, s.scope, s.subject_id,
       s.window_key, s.on_budget, s.max_cost, s.max_tokens,
       s.spent_cost + CASE WHEN n.budget_id IS NULL THEN 0 ELSE :cost END,
       s.spent_tokens + CASE WHEN n.budget_id IS NULL THEN 0 ELSE :tokens END,
       s.reserved_cost, s.reserved_tokens, s.raised
FROM verdict v LEFT JOIN standing s ON true LEFT JOIN noted n ON n.budget_id = s.id
"""
)

_MOVED = """
, locked AS MATERIALIZED (
    SELECT w.budget_id, w.window_key, g.cost, g.tokens
    FROM budget_windows w JOIN gone g USING (budget_id, window_key)
    ORDER BY w.budget_id, w.window_key
    FOR UPDATE OF w
)
UPDATE budget_windows w
SET reserved_cost = w.reserved_cost - l.cost, reserved_tokens = w.reserved_tokens - l.tokens,
    spent_cost = w.spent_cost + :cost, spent_tokens = w.spent_tokens + :tokens
FROM locked l
WHERE w.budget_id = l.budget_id AND w.window_key = l.window_key
RETURNING w.budget_id
"""

SETTLE = text(
    """
WITH gone AS (
    DELETE FROM budget_reservations WHERE id = :ticket
    RETURNING budget_id, window_key, cost, tokens
)"""
    + _MOVED
)

RELEASE = text(
    """
WITH forgotten AS (
    DELETE FROM budget_reservations
    WHERE released_at < now() - make_interval(secs => :kept_seconds)
), leaked AS (
    SELECT r.id, r.budget_id, r.cost, r.tokens FROM budget_reservations r
    WHERE r.released_at IS NULL AND NOT EXISTS (
        SELECT FROM executions e
        WHERE e.id = r.execution_id AND e.attempt = r.attempt AND e.status = 'running'
    )
    ORDER BY r.id
    LIMIT :limit
    FOR UPDATE OF r SKIP LOCKED
), taken AS (
    -- it stays for a while: a late settlement is known by it, and then it is gone
    UPDATE budget_reservations r SET released_at = now(), cost = 0, tokens = 0
    FROM leaked l
    WHERE r.id = l.id AND r.budget_id = l.budget_id
    RETURNING r.budget_id, r.window_key, l.cost, l.tokens
), gone AS (
    SELECT budget_id, window_key, sum(cost) AS cost, sum(tokens) AS tokens FROM taken
    GROUP BY budget_id, window_key
)"""
    + _MOVED
)

RAISE = text("""
UPDATE budget_windows
SET extra_cost = extra_cost + :cost, extra_tokens = extra_tokens + :tokens, raised = raised + 1
WHERE budget_id = :budget_id AND window_key = :window AND raised = :raised
RETURNING budget_id
""")

SUBJECTS = text("SELECT DISTINCT subject_id FROM budgets")

_UNUSED = """coalesce(w.spent_cost, 0), coalesce(w.spent_tokens, 0), coalesce(w.reserved_cost, 0),
       coalesce(w.reserved_tokens, 0), coalesce(w.raised, 0)"""

STANDINGS = text(
    _APPLYING
    + """
SELECT a.id, a.scope, a.subject_id, a.window_key, a.on_budget,
       a.max_cost + coalesce(w.extra_cost, 0), a.max_tokens + coalesce(w.extra_tokens, 0),
       """
    + _UNUSED
    + """
FROM applying a
LEFT JOIN budget_windows w ON w.budget_id = a.id AND w.window_key = a.window_key
ORDER BY a.scope, a.window_key
"""
)

FIND = text(
    """
SELECT b.id, b.scope, b.subject_id, """
    + _WINDOW_KEY
    + """, b.on_budget,
       b.max_cost + coalesce(w.extra_cost, 0), b.max_tokens + coalesce(w.extra_tokens, 0),
       """
    + _UNUSED
    + """,
       coalesce(t.name, u.name) AS subject_name, b.owner_id, b.period, b.max_cost, b.max_tokens,
       b.created_at, b.updated_at
FROM budgets b
LEFT JOIN tasks t ON b.scope = 'task' AND t.id = b.subject_id
LEFT JOIN users u ON b.scope = 'user' AND u.id = b.subject_id
LEFT JOIN budget_windows w ON w.budget_id = b.id AND w.window_key = """
    + _WINDOW_KEY
    + """
WHERE (CAST(:owner_id AS uuid) IS NULL OR b.owner_id = :owner_id)
  AND (CAST(:id AS uuid) IS NULL OR b.id = :id)
  AND (CAST(:subject_id AS uuid) IS NULL OR b.subject_id = :subject_id)
  AND (CAST(:before AS uuid) IS NULL OR b.id < :before)
ORDER BY b.id DESC
LIMIT :limit
"""
)

SET = text("""
INSERT INTO budgets AS b (id, scope, subject_id, owner_id, period, max_cost, max_tokens, on_budget)
VALUES (:id, :scope, :subject_id, :owner_id, :period, :max_cost, :max_tokens, :on_budget)
ON CONFLICT (subject_id, period) DO UPDATE
SET max_cost = excluded.max_cost, max_tokens = excluded.max_tokens,
    on_budget = excluded.on_budget, updated_at = now()
RETURNING b.id
""")

REMOVE = text("""
WITH gone AS (DELETE FROM budgets WHERE id = :id RETURNING id)
DELETE FROM budget_windows w USING gone WHERE w.budget_id = gone.id
""")
