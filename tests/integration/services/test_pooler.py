"""Connections through a pooler in transaction mode carry no state of a session."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import text

from celeriac.db.engine import Database, Pooler
from celeriac.db.server import session_settings


@contextmanager
def opened(shared: Database, pooler: Pooler, *, own_limits: bool = False) -> Iterator[Database]:
    url = shared.engine.url.render_as_string(hide_password=False)
    database = Database(url, connections=1, lock_seconds=0.1, pooler=pooler, own_limits=own_limits)
    try:
        yield database
    finally:
        database.close()


def lock_timeout(database: Database) -> str:
    with database.autocommit() as connection:
        return str(connection.execute(text("SHOW lock_timeout")).scalar_one())


def test_the_settings_are_those_of_the_role(shared_database: Database) -> None:
    with opened(shared_database, Pooler()) as database, database.autocommit() as connection:
        found = session_settings(connection)
    assert found.role_faults(2.0) == {
        "enable_seqscan": "off", "lock_timeout": "2000ms", "statement_timeout": "60s",
        "plan_cache_mode": "force_custom_plan",
    }  # fmt: skip
    assert found.cure({"lock_timeout": "2000ms"}) == (
        f'ALTER ROLE "celeriac" IN DATABASE "{found.database}" SET lock_timeout = \'2000ms\';'
    )
    with shared_database.autocommit() as connection:
        own = session_settings(connection)
    assert own.role_faults(10.0) == {}, "set by each connection"


def test_own_limits_last_for_one_unit_of_work(shared_database: Database) -> None:
    with opened(shared_database, Pooler(), own_limits=True) as database:
        assert lock_timeout(database) == "100ms"
        with database.transaction() as connection:
            assert connection.execute(text("SHOW lock_timeout")).scalar_one() == "100ms"
        with database.engine.connect() as connection:
            assert connection.execute(text("SHOW lock_timeout")).scalar_one() == "0"


@pytest.mark.parametrize("prepares", [False, True])
def test_statements_are_prepared_where_the_pooler_tracks_them(
    shared_database: Database, prepares: bool
) -> None:
    with (
        opened(shared_database, Pooler(prepares=prepares)) as database,
        database.autocommit() as connection,
    ):
        for _ in range(10):
            connection.execute(text("SELECT CAST(:value AS int)"), {"value": 1})
        query = text("SELECT EXISTS (SELECT FROM pg_prepared_statements)")
        assert connection.execute(query).scalar_one() is prepares
