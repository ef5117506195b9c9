"""Real servers, one of each for the whole session, and the parts wired to them."""

from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from celeriac.db import migrate
from celeriac.db.engine import Database
from celeriac.settings import Settings
from celeriac.wiring import Container, build
from tests.support.servers import PostgresServer, ValkeyServer, running_postgres, running_valkey


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A running PostgreSQL."""
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[ValkeyServer]:
    """A running Valkey."""
    with running_valkey() as server:
        yield server


@pytest.fixture(scope="session")
def migrated(postgres_server: PostgresServer) -> str:
    """The name of a database with our tables, to be copied and never written."""
    name = postgres_server.fresh_database()
    database = Database(postgres_server.url(name), connections=1)
    with database.transaction() as connection:
        migrate.upgrade(connection)
    database.close()
    return name


@pytest.fixture
def settings(
    postgres_server: PostgresServer, valkey_server: ValkeyServer, migrated: str
) -> Iterator[Settings]:
    """Settings that name a fresh, migrated database and an empty Valkey."""
    name = postgres_server.fresh_database(migrated)
    valkey_server.flush()
    yield Settings.load().model_copy(
        update={
            "database_url": postgres_server.url(name),
            "redis_url": valkey_server.url(0),
            "celery_broker_url": None,
            "celery_result_backend": None,
            "secret_key": SecretStr("a key of tests alone: 0123456789abcdef"),
        }
    )
    postgres_server.drop_database(name)


@pytest.fixture
def container(settings: Settings) -> Iterator[Container]:
    """The shared parts on a fresh database."""
    parts = build(settings, service="test", connections=10)
    yield parts
    parts.close()
