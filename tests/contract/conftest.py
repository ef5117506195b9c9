"""The real application with something in it, described by its own schema."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from celeriac.api.app import create_app
from celeriac.api.core.protocol import SERVER_OPTIONS
from celeriac.db import workers
from celeriac.domain.executions.model import Completed
from celeriac.domain.operations import WorkerReport
from celeriac.kit.ids import uuid7
from celeriac.settings import Settings
from celeriac.wiring.core import CoreServices, build
from tests.support.api import AGENT, EXECUTE, TASK, Asker, build_accounts
from tests.support.asking import a_form, park
from tests.support.http_server import serving
from tests.support.servers import PostgresServer, ValkeyServer
from tests.support.working import begin_session, claim, finish


@dataclass(frozen=True)
class Seeded:
    """Where the application is, a key, and the ids of what there is."""

    url: str
    token: str
    ids: dict[str, str]


@pytest.fixture(scope="module")
def container(
    postgres_server: PostgresServer,
    valkey_server: ValkeyServer,
    migrated: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[CoreServices]:
    """The shared parts on a database that the module's tests write to."""
    name = postgres_server.fresh_database(migrated)
    settings = Settings.load()
    update = {
        "home": tmp_path_factory.mktemp("home"),
        "database_url": postgres_server.url(name),
        "redis_url": valkey_server.url(0),
        "celery_broker_url": None,
        "celery_result_backend": None,
        # each operation is asked with bad keys as well
        "api": settings.api.model_copy(update={"bad_keys_per_minute": 1_000_000}),
        # the worker that is reported below doesn't report again
        "worker": settings.worker.model_copy(update={"heartbeat_seconds": 3600.0}),
        "allowed_hosts": ("testserver",),
        "secret_key": SecretStr("a key of tests alone: 0123456789abcdef"),
    }
    parts = build(settings.model_copy(update=update), service="test", connections=10)
    yield parts
    parts.close()
    postgres_server.drop_database(name)


@pytest.fixture(scope="module")
def seeded(container: CoreServices) -> Iterator[Seeded]:
    """The application with an agent, a task and one execution that has ended."""
    report = WorkerReport(
        id=uuid7(), hostname="celery@here", pid=1, pool="threads", slots=8, running=1,
        cpu_percent=0.5, memory_bytes=10**8, version="1",
    )  # fmt: skip
    with container.database.autocommit() as connection:
        workers.report(connection, report)
    token = build_accounts(container).bootstrap_admin().token
    with TestClient(create_app(container)) as client:
        admin = Asker(client, token)
        agent = admin.post("/api/v1/agents", json=AGENT).json()["id"]
        task = admin.post("/api/v1/tasks", json=TASK).json()["id"]
        accepted = admin.post(EXECUTE, json={"variables": {"text": "a"}}).json()
        execution = accepted["execution_id"]
        claimed = claim(container, execution)
        session = begin_session(container, claimed)
        finish(container, claimed, Completed({"summary": "a"}))
        for kept in (f"sessions/{session}/work", f"work/{execution}"):
            (container.settings.home / kept).mkdir(parents=True)
            (container.settings.home / kept / "a.txt").write_text("a")
        waiting = admin.post(EXECUTE, json={"variables": {"text": "b"}}).json()["execution_id"]
        park(container, waiting, a_form())
        (approval,) = admin.get(f"/api/v1/approvals?execution_id={waiting}").json()["items"]
        user = admin.get("/api/v1/me").json()["id"]
        ids = {
            "agent": agent,
            "task": task,
            "approval_id": approval["id"],
            "execution_id": execution,
            "session_id": str(session),
            "task_id": accepted["celery_task_id"],
            "user_id": user,
        }
    with serving(create_app(container), **SERVER_OPTIONS) as url:
        yield Seeded(url, token, ids)
