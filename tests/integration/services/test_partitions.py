"""Partitions are made ahead of time, and where one lacks, by the statement that needs it."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from uuid import UUID

import pytest
from sqlalchemy import text

from celeriac.db import partitions
from celeriac.db.engine import Database
from celeriac.db.partitions import Period
from celeriac.domain.doctor import Code, Level
from celeriac.domain.errors import PartitionsError
from celeriac.domain.executions.model import Completed
from celeriac.kit.ids import uuid7_at
from celeriac.services.executions import submit
from celeriac.services.operations.partitions import make_partitions
from celeriac.settings import Settings
from celeriac.wiring.doctor import build_checks
from tests.support.core import Core

NOW = datetime.now(UTC)
WEEK = timedelta(days=7)


def periods(database: Database) -> list[Period]:
    with database.autocommit() as connection:
        return partitions.periods(connection)


def tables(database: Database, period: Period) -> set[str]:
    """Return the partitioned tables that have a partition of the period."""
    with database.autocommit() as connection:
        names = set(connection.execute(_ATTACHED).scalars())
    return {each.name for each in partitions.TABLES if period.name(each.name) in names}


_ATTACHED = text("SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r'")
ALL = {each.name for each in partitions.TABLES}


def test_a_new_database_has_the_partitions_of_now_and_next(own_database: Database) -> None:
    there = periods(own_database)
    until = partitions.covered_until(there, NOW)
    assert until is not None
    assert NOW + WEEK < until <= NOW + 2 * WEEK
    assert all(each.since.weekday() == 0 and each.until - each.since == WEEK for each in there)
    assert all(tables(own_database, each) == ALL for each in there)


def test_the_keeper_makes_them_before_they_are_needed(own_database: Database) -> None:
    before = periods(own_database)
    with own_database.autocommit() as connection:
        made = partitions.make_ahead(connection, now=before[-1].until + timedelta(days=1))
    assert [each.since for each in made] == [before[-1].until, before[-1].until + WEEK]
    assert periods(own_database) == before + made
    assert make_partitions(own_database, days=7) == 0


def test_periods_of_another_length_fill_what_is_left(own_database: Database) -> None:
    before = periods(own_database)
    with own_database.autocommit() as connection:
        partitions.make_ahead(connection, days=30, now=before[-1].until + timedelta(days=40))
    there = periods(own_database)
    assert all(one.end <= other.begin for one, other in pairwise(there))
    assert partitions.covered_until(there[len(before) :], there[-1].since) == there[-1].until
    with own_database.autocommit() as connection:
        partitions.ensure(connection, [there[0].least, UUID(int=there[-1].above.int - 1)])
    there = periods(own_database)
    assert all(one.end == other.begin for one, other in pairwise(there))


@pytest.mark.parametrize("days", [-400, 400], ids=["behind", "ahead"])
def test_a_wrong_clock_finds_or_makes_its_partition(
    own_database: Database, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    core = Core(own_database)
    then = NOW + timedelta(days=days)
    monkeypatch.setattr(submit, "uuid7", lambda: uuid7_at(then))
    claim = core.running()
    core.end(claim, Completed("done"))
    assert core.get(uuid7_at(then)).result == "done"
    made = [each for each in periods(own_database) if each.since <= then < each.until]
    assert len(made) == 1
    assert tables(own_database, made[0]) == ALL
    core.assert_consistent()


@pytest.mark.parametrize("table", ["executions", "events"])
@pytest.mark.parametrize(
    "bounds", ["DEFAULT", f"FOR VALUES FROM (MINVALUE) TO ('{uuid7_at(NOW - 99 * WEEK)}')"]
)
def test_a_partition_that_somebody_has_attached_is_named_with_the_cure(
    own_database: Database, bounds: str, table: str
) -> None:
    core = Core(own_database)
    url = own_database.engine.url.render_as_string(hide_password=False)
    core.execute(f"CREATE TABLE mine PARTITION OF {table} {bounds}")

    (found,) = [
        each
        for each in build_checks(Settings(database_url=url)).database()
        if each.code is Code.PARTITIONS
    ]

    assert found.level is Level.FAILED
    assert f"mine of {table} ({bounds})" in found.message
    cure = f"ALTER TABLE {table} DETACH PARTITION mine"
    assert cure in (found.cure or "")
    if table == "executions":
        with (
            own_database.autocommit() as connection,
            pytest.raises(PartitionsError, match=cure),
        ):
            partitions.periods(connection)
    core.execute(f"ALTER TABLE {table} DETACH PARTITION mine")
    core.pending()


def test_several_at_once_make_it_once(own_database: Database) -> None:
    url = own_database.engine.url.render_as_string(hide_password=False)
    database = Database(url, connections=4)
    then = uuid7_at(NOW - 50 * WEEK)

    def ensure(_number: int) -> None:
        with database.transaction() as connection:
            partitions.ensure(connection, [then])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ensure, range(4)))
    database.close()
    assert len([each for each in periods(own_database) if each.least <= then < each.above]) == 1


def test_what_a_rolled_back_transaction_made_is_made_again(own_database: Database) -> None:
    then = uuid7_at(NOW - 50 * WEEK)
    with own_database.transaction() as connection:
        partitions.ensure(connection, [then])
        connection.rollback()
    with own_database.autocommit() as connection:
        partitions.ensure(connection, [then])
    assert any(each.least <= then < each.above for each in periods(own_database))


def test_a_gap_ends_what_is_covered() -> None:
    week = 7 * 86_400_000
    one, two, four = (Period(n * week, (n + 1) * week) for n in (1, 2, 4))
    at = one.since + timedelta(days=1)
    assert partitions.covered_until([one, two, four], at) == two.until
    assert partitions.covered_until([one, two, four], two.until) is None
    assert partitions.covered_until([], at) is None
