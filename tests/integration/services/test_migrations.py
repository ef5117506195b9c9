"""The schema that the migrations make, and databases that they can't upgrade."""

import re
from collections.abc import Iterator

import pytest
from sqlalchemy import CheckConstraint, text

from celeriac.db import migrate
from celeriac.db.engine import Database
from celeriac.db.schema import metadata
from celeriac.domain.errors import ConfigurationError
from tests.support.servers import PostgresServer


@pytest.fixture
def own_database(postgres_server: PostgresServer, migrated: str) -> Iterator[Database]:
    """A migrated database for one test, which may change its schema."""
    name = postgres_server.fresh_database(migrated)
    database = Database(postgres_server.url(name), connections=1)
    yield database
    database.close()


def test_the_migrations_make_the_tables_of_this_release(own_database: Database) -> None:
    with own_database.autocommit() as connection:
        assert migrate.schema(connection).up_to_date
        assert migrate.differences(connection) == []


def test_the_database_allows_exactly_the_values_of_the_enums(own_database: Database) -> None:
    with own_database.autocommit() as connection:
        found = {name: _values(definition) for name, definition in connection.execute(_CHECKS)}
    expected = {
        str(check.name): _values(str(check.sqltext))
        for table in metadata.tables.values()
        for check in table.constraints
        if isinstance(check, CheckConstraint)
    }
    assert len(expected) > 8
    assert found == expected


def _values(definition: str) -> set[str]:
    return set(re.findall("'([^']*)'", definition))


_CHECKS = text("""
SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint
WHERE contype = 'c' AND connamespace = 'public'::regnamespace
""")


def test_a_change_by_hand_is_found(own_database: Database) -> None:
    with own_database.autocommit() as connection:
        connection.execute(text("ALTER TABLE executions DROP COLUMN batch_no"))
        connection.execute(text("DROP INDEX ix_workers_hostname"))
        assert len(migrate.differences(connection)) == 2


def test_an_upgrade_may_run_twice(own_database: Database) -> None:
    with own_database.transaction() as connection:
        migrate.upgrade(connection)
        assert migrate.schema(connection).up_to_date


@pytest.mark.parametrize(
    ("revision", "cure"),
    [
        ("0001", "made by an unreleased version of Celeriac and can't be upgraded; make a new one"),
        ("0010", "made by an unreleased version of Celeriac and can't be upgraded; make a new one"),
        ("0002_something", "upgraded by a newer version of Celeriac; run that version"),
    ],
)
def test_a_database_of_an_unknown_revision_is_refused(
    own_database: Database, revision: str, cure: str
) -> None:
    with own_database.autocommit() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :v"), {"v": revision})
        found = migrate.schema(connection)
    assert not found.up_to_date
    assert cure in found.cure
    with (
        pytest.raises(ConfigurationError, match=cure) as refused,
        own_database.transaction() as connection,
    ):
        migrate.upgrade(connection)
    assert revision in refused.value.message
