"""Hundreds of executions under random faults: a small run of what `make chaos` does."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection

from celeriac.db.engine import Database
from tests.support.chaos.agents import BEGIN, END
from tests.support.chaos.checks import Case
from tests.support.chaos.driver import Driver
from tests.support.chaos.facts import read_facts
from tests.support.chaos.findings import Harm
from tests.support.chaos.plan import faults_of, make_plan
from tests.support.chaos.report import rows_of, table
from tests.support.chaos.running import Outcome, carried_out, run
from tests.support.chaos.system import System
from tests.support.chaos.verdict import check_all
from tests.support.pgbouncer import is_installed

SEED, EXECUTIONS = 2, 500


@pytest.mark.requirement("F24")
@pytest.mark.timeout(420)
def test_nothing_is_lost_or_doubled_by_any_fault() -> None:
    outcome = run(make_plan(SEED, EXECUTIONS, faults_of(pooler=False)), minutes=5)
    assert {each.fault.name for each in outcome.happenings} == set(outcome.plan.faults), (
        "not all faults came"
    )
    unmet = [row["fault"] for row in rows_of(outcome) if not row["executions"]]
    assert unmet == [], "faults that no execution was alive for"
    assert outcome.counts["answers_lost_by_proxy"], "no answer was lost"
    if outcome.findings:
        pytest.fail(table(outcome), pytrace=False)


def test_a_seed_makes_one_plan() -> None:
    assert make_plan(7, 1000) == make_plan(7, 1000)
    assert make_plan(7, 1000) != make_plan(8, 1000)
    work = [work for each in make_plan(7, 1000).rounds for work in each.work]
    assert sum(each.count for each in work) == 1000
    struck = {each.name for one in make_plan(7, 2000, pooler=True).rounds for each in one.faults}
    assert struck == set(faults_of(pooler=True)) > set(faults_of(pooler=False))
    assert len({token for each in work for token in each.tokens()}) == 1000


_ONE = (
    "(SELECT e.id FROM executions e JOIN tasks t ON t.id = e.task_id WHERE t.name = '{}' LIMIT 1)"
)
NOOP, TALK, THINK = _ONE.format("noop"), _ONE.format("talk"), _ONE.format("think")
LATER, RELEASE = _ONE.format("later"), _ONE.format("release-by-version")

TAMPERED: Mapping[tuple[str, Harm], str] = {
    ("accepted and gone", Harm.LOST): f"DELETE FROM executions WHERE id = {NOOP}",
    ("stored twice", Harm.DOUBLED): f"""
        CREATE TEMP TABLE twin ON COMMIT DROP AS
        SELECT e.*, i.variables FROM executions e JOIN execution_inputs i ON i.execution_id = e.id
        WHERE e.id = {NOOP};
        UPDATE twin SET id = celeriac_uuid7();
        INSERT INTO execution_inputs SELECT id, variables FROM twin;
        ALTER TABLE twin DROP COLUMN variables;
        INSERT INTO executions SELECT * FROM twin""",
    ("not ended", Harm.LOST): f"UPDATE executions SET status = 'queued' WHERE id = {NOOP}",
    ("wrong end", Harm.LOST): f"UPDATE executions SET status = 'failed' WHERE id = {NOOP}",
    ("wrong result", Harm.LOST): f"""
        UPDATE execution_results SET result = 'null' WHERE execution_id = {NOOP}""",
    ("completed without effect", Harm.LOST): f"""
        UPDATE executions SET attempt = attempt + 1 WHERE id = {NOOP}""",
    ("unknown attempt", Harm.OTHER): f"UPDATE executions SET attempt = 0 WHERE id = {NOOP}",
    ("started early", Harm.OTHER): f"""
        UPDATE executions SET started_at = created_at WHERE id = {LATER}""",
    ("crash without a dead worker", Harm.OTHER): f"""
        INSERT INTO events (execution_id, seq, type, attempt, data)
        VALUES ({NOOP}, 1000, 'worker_lost', 1, '{{"worker": "w1@fleet/1"}}')""",
    ("event doubled", Harm.DOUBLED): f"""
        INSERT INTO events (execution_id, seq, type, attempt, data)
        SELECT execution_id, seq + 1000, type, attempt, data FROM events
        WHERE execution_id = {TALK} AND type = 'custom'""",
    ("event lost", Harm.LOST): f"""
        DELETE FROM events
        WHERE execution_id = {TALK} AND CAST(data AS jsonb) @> '{{"data": {{"number": 2}}}}'""",
    ("model call doubled", Harm.DOUBLED): f"""
        INSERT INTO model_calls (id, execution_id, attempt, provider, model, input_tokens,
                                 output_tokens, cached_tokens, latency_ms)
        SELECT gen_random_uuid(), execution_id, attempt, provider, model, input_tokens,
               output_tokens, 0, 0
        FROM model_calls WHERE execution_id = {THINK}""",
    ("model call lost", Harm.LOST): f"DELETE FROM model_calls WHERE execution_id = {THINK}",
    ("totals differ", Harm.DOUBLED): f"""
        UPDATE executions SET input_tokens = input_tokens * 2 WHERE id = {TALK}""",
    ("usage by day differs", Harm.DOUBLED): """
        INSERT INTO usage_deltas (workspace_id, owner_id, day, task_id, provider, model, cost)
        SELECT workspace_id, owner_id, day, task_id, provider, model, cost FROM usage_entries""",
    ("budget charged wrongly", Harm.DOUBLED): """
        UPDATE budget_windows SET spent_tokens = spent_tokens + 15""",
    ("wrong release", Harm.LOST): f"""
        UPDATE executions
        SET agent_version_id = (SELECT current_version_id FROM agents WHERE name = 'release-3')
        WHERE id = {RELEASE}""",
    ("more at once than the limit", Harm.DOUBLED): """
        UPDATE events SET at = '2026-01-01'
        WHERE type = 'started' AND execution_id IN (
            SELECT e.id FROM executions e JOIN tasks t ON t.id = e.task_id
            WHERE t.name = 'limited')""",
    ("log breaks the table of states", Harm.OTHER): f"""
        DELETE FROM events WHERE execution_id = {NOOP} AND type = 'started'""",
    ("tables disagree", Harm.LOST): f"""
        DELETE FROM events WHERE execution_id = {NOOP} AND seq = 1""",
}
"""Changes behind the product's back, by the check that must see them."""


@pytest.mark.timeout(240)
def test_the_checks_see_what_is_wrong() -> None:
    # this plan goes through a pooler, where one is installed
    pooler = is_installed()
    plan = make_plan(1, 80, ["deploy_agent", "kill_pooler"], pooler=pooler)
    assert len(plan.faults) == 1 + pooler
    with ExitStack() as stack:
        outcome, system, driver = stack.enter_context(carried_out(plan, minutes=2))
        database = stack.enter_context(closing(system.database()))
        assert _found(database, system, driver, outcome) == set()
        for expected, statement in TAMPERED.items():
            found = _found(database, system, driver, outcome, statement)
            assert expected in found, f"{statement} was seen as {found}"
        with _rewritten(system.diary) as lines:
            begins = [line for line in lines if line.split()[4] == BEGIN]
            lines.append(begins[0])
        assert ("attempt ran twice", Harm.DOUBLED) in _found(database, system, driver, outcome)
        with _rewritten(system.diary) as lines:
            lines[:] = [line for line in lines if line.split()[4] != END]
        found = _found(database, system, driver, outcome)
        assert ("completed without effect", Harm.LOST) in found


def _found(
    database: Database,
    system: System,
    driver: Driver,
    outcome: Outcome,
    statement: str | None = None,
) -> set[tuple[str, Harm]]:
    """Return what the checks find, after `statement` if it is given, which is undone."""
    with database.transaction() as connection:
        if statement is not None:
            assert connection.exec_driver_sql(statement).rowcount, f"{statement} changed nothing"
        facts = read_facts(connection, driver, system.diary)
        case = Case(facts, driver, system.model, system.struck, outcome.happenings)
        found = {(each.check, each.harm) for each in check_all(connection, case)}
        _undo(connection)
    return found


def _undo(connection: Connection) -> None:
    transaction = connection.get_transaction()
    assert transaction is not None
    transaction.rollback()


@contextmanager
def _rewritten(diary: Path) -> Iterator[list[str]]:
    lines = diary.read_text().splitlines()
    yield lines
    diary.write_text("".join(f"{line}\n" for line in lines))
