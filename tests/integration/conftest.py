"""The parts wired to real servers (their fixtures: tests.support.fixtures)."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from celeriac.settings import Settings
from celeriac.wiring.core import CoreServices, build
from tests.support.database_pool import DatabasePool
from tests.support.outside import Outside, machine
from tests.support.servers import PostgresServer, ValkeyServer


@pytest.fixture
def settings(
    postgres_server: PostgresServer,
    valkey_server: ValkeyServer,
    databases: DatabasePool,
    tmp_path: Path,
) -> Iterator[Settings]:
    """Settings that name a database as new, an empty Valkey and a home of their own."""
    name = databases.take()
    valkey_server.flush()
    yield Settings.load().model_copy(
        update={
            "home": tmp_path,
            "database_url": postgres_server.url(name),
            "redis_url": valkey_server.url(0),
            "celery_broker_url": None,
            "celery_result_backend": None,
            "allowed_hosts": ("testserver",),
            "secret_key": SecretStr("a key of tests alone: 0123456789abcdef"),
        }
    )
    databases.give_back(name)


@pytest.fixture
def container(settings: Settings) -> Iterator[CoreServices]:
    """The shared parts on a fresh database."""
    parts = build(settings, service="test", connections=10)
    yield parts
    parts.close()


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> Iterator[Outside]:
    """What attempts to leave a sandbox are after."""
    with machine(monkeypatch) as made:
        yield made
