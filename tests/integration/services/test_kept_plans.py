"""Plans that are kept prune no partitions while they run (docs/adr/0052)."""

import importlib
import pkgutil
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import pytest
from psycopg import _queries
from psycopg._queries import PostgresQuery
from psycopg.adapt import Transformer
from psycopg.errors import Diagnostic
from sqlalchemy import Connection, TextClause, text

import celeriac.db
from celeriac.db.engine import Database, Pooler
from celeriac.db.plans import keeps_plan, kept_text
from celeriac.kit.ids import uuid7
from tests.integration.services.test_plans import grow_old
from tests.support.core import Core

WEEKS = 3


def statements() -> Iterator[tuple[str, TextClause]]:
    """Yield the names of all statements whose plans are kept, and the statements."""
    for module in pkgutil.walk_packages(celeriac.db.__path__, "celeriac.db."):
        if ".migrations" in module.name:
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            place = f"{module.name.removeprefix('celeriac.db.')}.{name}"
            yield from (each for each in _within(place, value) if keeps_plan(each[1]))


def _within(place: str, value: object) -> Iterator[tuple[str, TextClause]]:
    if isinstance(value, TextClause):
        yield place, value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _within(f"{place}[{key}]", each)


STATEMENTS = dict(statements())
_EXEC_PARAMETERS = re.compile(r":execparamids \(b([ \d]*)\)")


def test_they_prune_no_partitions_while_they_run(core: Core) -> None:
    grow_old(core.database, WEEKS)
    pruning = {name: pruned_by(core, statement) for name, statement in STATEMENTS.items()}
    assert {name: found for name, found in pruning.items() if found} == {}


def pruned_by(core: Core, statement: TextClause) -> set[str]:
    """Return the parameters by which the plan for all values prunes while it runs."""
    compiled = statement.compile(core.database.engine)
    numbers = {each: f"${number}" for number, each in enumerate(compiled.params, 1)}
    call = "EXPLAIN EXECUTE kept"
    if numbers:
        call += f"({', '.join(['NULL'] * len(numbers))})"
    seen: list[str] = []

    def note(said: Diagnostic) -> None:
        seen.append(said.message_detail or "")

    with core.database.autocommit() as connection:
        driver: Any = connection.connection.driver_connection
        driver.add_notice_handler(note)
        connection.exec_driver_sql("SET plan_cache_mode = force_generic_plan")
        driver.execute(f"PREPARE kept AS {compiled.string % numbers}", prepare=False)
        connection.exec_driver_sql("SET client_min_messages = log")
        connection.exec_driver_sql("SET debug_print_plan = on")
        driver.execute(call, prepare=False)
        for setting in ("debug_print_plan", "client_min_messages", "plan_cache_mode"):
            connection.exec_driver_sql(f"RESET {setting}")
        driver.execute("DEALLOCATE kept", prepare=False)
        driver.remove_notice_handler(note)
    plan = "".join(seen)
    assert "PLANNEDSTMT" in plan, "the plan was not seen"
    return {found.strip() for found in _EXEC_PARAMETERS.findall(plan)} - {""}


def test_what_prunes_while_it_runs_is_found(core: Core) -> None:
    grow_old(core.database, WEEKS)
    joined = text(
        "SELECT e.status FROM unnest(CAST(:ids AS uuid[])) AS n (id) JOIN executions e USING (id)"
    )
    assert pruned_by(core, joined)
    assert not pruned_by(core, text("SELECT status FROM executions WHERE id = :id"))


def test_the_statements_of_an_execution_keep_their_plans() -> None:
    assert {name.partition("[")[0] for name in STATEMENTS} >= {
        "executions.create._CREATE",
        "executions.attempt._CLAIM",
        "executions.attempt._STATEMENTS",
        "executions.groups._STATEMENTS",
    }


def test_psycopg_converts_their_placeholders_once(core: Core) -> None:
    queries = [each.compile(core.database.engine) for each in STATEMENTS.values()]
    again = []
    for query in [*queries, *queries]:
        before = _queries._query2pg.cache_info()
        PostgresQuery(Transformer()).convert(str(query), dict.fromkeys(query.params))
        after = _queries._query2pg.cache_info()
        again.append(after.hits > before.hits)
    assert all(again[len(queries) :]), "a statement is longer than what psycopg remembers"


KEPT = kept_text("SELECT count(*) FROM executions WHERE id = :id")
PLANNED = text("SELECT count(*) FROM executions WHERE id = :id")
NEUTRAL = text("SELECT count(*) FROM tasks WHERE id = :id")


def mode(connection: Connection, statement: TextClause) -> str:
    """Execute a statement; return the mode that it ran in."""
    connection.execute(statement, {"id": uuid7()})
    shown: str = connection.execute(text("SHOW plan_cache_mode")).scalar_one()
    return shown


def test_the_mode_is_that_of_the_statement(core: Core) -> None:
    for _ in range(2):
        with core.database.autocommit() as connection:
            assert mode(connection, KEPT) == "force_generic_plan"
            assert mode(connection, NEUTRAL) == "force_generic_plan", "it needs none"
            assert mode(connection, PLANNED) == "force_custom_plan"
        with core.database.transaction() as connection:
            assert mode(connection, KEPT) == "force_generic_plan"
        with core.database.autocommit() as connection:
            assert mode(connection, PLANNED) == "force_custom_plan"


@pytest.mark.parametrize("first", [KEPT, PLANNED])
def test_a_rollback_takes_back_the_mode(core: Core, first: TextClause) -> None:
    modes = {KEPT: "force_generic_plan", PLANNED: "force_custom_plan"}
    other = KEPT if first is PLANNED else PLANNED
    with core.database.autocommit() as connection:
        assert mode(connection, first) == modes[first]
    with suppress(LookupError), core.database.transaction() as connection:
        assert mode(connection, other) == modes[other]
        raise LookupError
    for each in (other, first):
        with core.database.autocommit() as connection:
            assert mode(connection, each) == modes[each]


def test_a_rollback_to_a_savepoint_takes_back_the_mode(core: Core) -> None:
    with core.database.transaction() as connection:
        assert mode(connection, KEPT) == "force_generic_plan"
        with suppress(LookupError), connection.begin_nested():
            assert mode(connection, PLANNED) == "force_custom_plan"
            raise LookupError
        assert mode(connection, PLANNED) == "force_custom_plan"


def test_behind_a_pooler_no_plan_is_kept(core: Core) -> None:
    url = core.database.engine.url.render_as_string(hide_password=False)
    database = Database(url, connections=1, pooler=Pooler())
    try:
        with database.autocommit() as connection:
            assert mode(connection, KEPT) != "force_generic_plan"
    finally:
        database.close()
