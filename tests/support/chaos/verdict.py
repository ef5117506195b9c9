"""All checks of a run: of each execution, of the tables as a whole, and of what is left behind."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING

import redis
from sqlalchemy import Connection, text

from celeriac.db.engine import Database
from celeriac.embedded.valkey import BROKER_DATABASE
from tests.support.chaos.checks import CHECKS, Case
from tests.support.chaos.driver import Driver
from tests.support.chaos.facts import TERMINAL, Facts, read_facts
from tests.support.chaos.findings import Finding, Harm
from tests.support.chaos.plan import PREFORK_WORKERS, THREAD_WORKERS
from tests.support.chaos.processes import children_of
from tests.support.chaos.system import System
from tests.support.consistency import contradictions

if TYPE_CHECKING:
    from tests.support.chaos.running import Outcome

_CLEAN_UP_SECONDS = 30.0
_POLL_SECONDS = 0.3

_DOUBLING = frozenset({"more than one terminal event", "an attempt was started twice"})
_LOSING = frozenset({"events are not numbered 1..n, with n on the row"})

_USAGE = text("""
SELECT t.name, u.calls AS total_calls, coalesce(c.calls, 0) AS calls,
       u.input_tokens + u.output_tokens AS total_tokens, coalesce(c.tokens, 0) AS tokens,
       u.cost AS total_cost, coalesce(c.cost, 0) AS cost
FROM (SELECT task_id, sum(calls) AS calls, sum(input_tokens) AS input_tokens,
             sum(output_tokens) AS output_tokens, sum(cost) AS cost
      FROM usage_entries GROUP BY task_id) u
JOIN tasks t ON t.id = u.task_id
LEFT JOIN (SELECT e.task_id, count(*) AS calls, sum(m.input_tokens + m.output_tokens) AS tokens,
                  sum(m.cost) AS cost
           FROM model_calls m JOIN executions e ON e.id = m.execution_id GROUP BY e.task_id) c
  ON c.task_id = u.task_id
""")

_LEFT_BEHIND = {
    # one that was released stays a while as a mark that its call was booked
    "reservations of budgets": """
        SELECT count(*) FROM budget_reservations WHERE released_at IS NULL""",
    "open questions of executions that have ended": """
        SELECT count(*) FROM approvals a JOIN executions e ON e.id = a.execution_id
        WHERE a.status = 'open' AND e.status IN ('completed', 'failed', 'cancelled')""",
    "active sessions of executions that have ended": """
        SELECT count(*) FROM sessions s JOIN executions e ON e.session_id = s.id
        WHERE s.status = 'active' AND e.status IN ('completed', 'failed', 'cancelled')""",
}


def judge(outcome: "Outcome", system: System, driver: Driver) -> None:
    """Check everything; stops the programs. What is found goes into `outcome`."""
    with closing(system.database()) as database:
        left = list(_left_behind(system, database))
        driver.stop()
        left += [Finding("left behind", Harm.OTHER, "processes", each) for each in system.stop()]
        with database.autocommit() as connection:
            facts = read_facts(connection, driver, system.diary)
            case = Case(facts, driver, system.model, system.struck, outcome.happenings)
            outcome.findings += check_all(connection, case)
    outcome.findings += left
    outcome.findings += [
        Finding("program died, or would not end", Harm.OTHER, what.split()[0], what, (at - 5, at))
        for at, what in (*system.died, *system.stubborn)
    ]
    outcome.findings += [
        Finding("answered 500", Harm.OTHER, what.split(":")[0], what, (at, at))
        for at, what in driver.faulty
    ]
    outcome.lives = [facts.alive(row) for row in facts.rows.values()]
    outcome.counts = _counts(facts, system)


def check_all(connection: Connection, case: Case) -> Iterator[Finding]:
    """Yield what is wrong with executions and tables."""
    for check in CHECKS:
        yield from check(case)
    yield from _tables(connection, case.facts)


def _tables(connection: Connection, facts: Facts) -> Iterator[Finding]:
    for rule, ids in contradictions(connection).items():
        harm = Harm.DOUBLED if rule in _DOUBLING else Harm.LOST if rule in _LOSING else Harm.OTHER
        for each in ids:
            row = facts.rows.get(str(each))
            alive = None if row is None else facts.alive(row)
            yield Finding("tables disagree", harm, str(each), rule, alive)
    for row in connection.execute(_USAGE):
        totals = (row.total_calls, row.total_tokens, row.total_cost)
        parts = (row.calls, row.tokens, row.cost)
        if totals != parts:
            harm = Harm.DOUBLED if totals > parts else Harm.LOST
            detail = f"calls, tokens, cost by day {totals}, by call {parts}"
            yield Finding("usage by day differs", harm, row.name, detail)


def _left_behind(system: System, database: Database) -> Iterator[Finding]:
    """Give everything time to be cleaned up; yield what is not."""
    deadline = time.monotonic() + _CLEAN_UP_SECONDS
    while (left := _remains(system, database)) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        system.look_after()
    for what, detail in left.items():
        yield Finding("left behind", Harm.OTHER, what, detail)


def _remains(system: System, database: Database) -> dict[str, str]:
    found = {}
    with database.autocommit() as connection:
        for what, query in _LEFT_BEHIND.items():
            if count := connection.execute(text(query)).scalar_one():
                found[what] = str(count)
    with redis.Redis.from_url(system.valkey.url(BROKER_DATABASE)) as client:
        for key in client.scan_iter(count=1000):
            name = key.decode(errors="replace")
            if name == "unacked" and (count := client.hlen(key)):
                found["messages that nobody acknowledged"] = str(count)
            elif client.type(key) == b"list" and "pidbox" not in name:
                found[f"messages in {name!r}"] = str(client.llen(key))
    below = [child for name in THREAD_WORKERS for child in system.children(name)]
    for name in PREFORK_WORKERS:
        below += [grand for child in system.children(name) for grand in children_of(child.pid)]
    if below:
        found["processes of agents"] = str([each.pid for each in below])
    return found


def _counts(facts: Facts, system: System) -> dict[str, int]:
    statuses = Counter(row.status for row in facts.rows.values())
    return {
        "executions": len(facts.rows),
        **{status: statuses[status] for status in sorted(TERMINAL)},
        "attempts": sum(row.attempt for row in facts.rows.values()),
        "retries": sum(row.retry_count for row in facts.rows.values()),
        "lost_workers": sum(row.crash_count for row in facts.rows.values()),
        "events": sum(map(len, facts.events.values())),
        "model_calls": sum(c.calls for each in facts.calls.values() for c in each.values()),
        "answers_lost_by_proxy": system.proxy.lost,
    }
