"""A test finds a database of the pool as new, whatever the test before did to it."""

from collections.abc import Callable

import pytest
from sqlalchemy import Engine, NullPool, create_engine, text

from tests.support.database_pool import DatabasePool
from tests.support.servers import PostgresServer

A_USER = "INSERT INTO users (id, name, role) VALUES (gen_random_uuid(), 'ada', 'viewer')"
A_POSITION = "SELECT nextval('audit_logs_position_seq')"
CHANGES = (
    "DROP INDEX ix_memberships_user_id",
    "ALTER TABLE users ALTER name DROP NOT NULL",
    "ALTER TABLE users DISABLE TRIGGER ALL; ALTER TABLE users SET (fillfactor = 50)",
    "DROP TRIGGER audit_seals_rows ON audit_seals",
    "UPDATE alembic_version SET version_num = 'another'",
    f"{A_USER}; ANALYZE users",
)


@pytest.fixture
def engine_of(postgres_server: PostgresServer) -> Callable[[str], Engine]:
    return lambda name: create_engine(postgres_server.url(name), poolclass=NullPool)


def test_a_database_is_used_again_if_it_is_unchanged_and_nobody_uses_it(
    postgres_server: PostgresServer, migrated: str, engine_of: Callable[[str], Engine]
) -> None:
    pool = DatabasePool(postgres_server, migrated)
    name = pool.take()
    with engine_of(name).begin() as connection:
        connection.execute(text(A_USER))
        connection.execute(text(A_POSITION))
    pool.give_back(name)
    assert pool.take() == name
    with engine_of(name).begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM users")).scalar_one() == 0
        assert connection.execute(text(A_POSITION)).scalar_one() == 1
    with engine_of(name).connect() as connection:  # who may write later
        connection.execute(text("SELECT 1"))
        pool.give_back(name)
        connection.invalidate()  # it was cut off
    other = pool.take()
    assert other != name
    postgres_server.drop_database(other)


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_database_is_not_used_again(
    postgres_server: PostgresServer,
    migrated: str,
    engine_of: Callable[[str], Engine],
    change: str,
) -> None:
    pool = DatabasePool(postgres_server, migrated)
    name = pool.take()
    with engine_of(name).begin() as connection:
        connection.exec_driver_sql(change)
    pool.give_back(name)
    other = pool.take()
    assert other != name
    postgres_server.drop_database(other)
