"""The stage of the measurements: real servers, real workers, one user with two tasks."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from celeriac.db import migrate
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.agent import PythonAgent
from celeriac.domain.task import TaskSpec
from celeriac.embedded.home import Home
from celeriac.embedded.postgres import Postgres
from celeriac.embedded.process import ManagedProcess
from celeriac.embedded.valkey import Valkey
from celeriac.services.accounts import Accounts
from celeriac.services.agents import Agents, NewAgent
from celeriac.services.tasks import NewTask, Tasks
from celeriac.settings import Settings
from celeriac.wiring import Container, build

_ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Stage:
    """Running servers, the environment that tells of them, and what is to be executed."""

    environment: Mapping[str, str]
    container: Container
    actor: Actor
    noop: UUID
    wait: UUID
    logs: Path

    @contextmanager
    def process(self, name: str, *arguments: str, **more: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a Python program of ours beside the servers; it is stopped at the end."""
        with (self.logs / f"{name}.log").open("ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                env={**self.environment, **more},
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=_ROOT,
            )
        try:
            yield child
        finally:
            child.terminate()
            try:
                child.wait(30)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def worker(self, name: str, *, pool: str, concurrency: int) -> AbstractContextManager[Any]:
        """Run a worker of ours with all its queues."""
        return self.process(
            name, "celery", "-A", "celeriac", "worker", "-P", pool, "-c", str(concurrency),
            "-n", f"{name}@%h", "--loglevel=info", "--without-gossip", "--without-mingle",
        )  # fmt: skip

    def bare_worker(self, name: str, *, pool: str, concurrency: int) -> AbstractContextManager[Any]:
        """Run a worker of bare Celery with the same pool and concurrency."""
        return self.process(
            name, "celery", "-A", "benchmarks.bare", "worker", "-P", pool, "-c", str(concurrency),
            "-n", f"{name}@%h", "--loglevel=info", "--without-gossip", "--without-mingle",
        )  # fmt: skip

    def beat(self) -> AbstractContextManager[Any]:
        """Run the keeper."""
        return self.process("beat", "celery", "-A", "celeriac", "beat", "--loglevel=warning")


@contextmanager
def stage() -> Iterator[Stage]:
    """Start PostgreSQL (with fsync) and Valkey in a directory of their own; remove all after."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="celeriac-bench-")))
        home = Home.open(directory / "home")
        postgres, valkey = Postgres.prepare(home), Valkey.prepare(home)
        for name, server in (("postgres", postgres), ("valkey", valkey)):
            process = ManagedProcess(server.spec(), home.log_file(name))
            process.start()
            stack.callback(process.stop)
            process.wait_ready()
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "LANG": "C.UTF-8",
            "CELERIAC_HOME": str(directory / "work"),
            "CELERIAC_AGENT_MODULES": '["benchmarks.agents"]',
            "CELERIAC_SECRET_KEY": "benchmark-" * 4,
            "DATABASE_URL": postgres.url("celeriac"),
            "REDIS_URL": valkey.url(0),
            "BARE_BROKER_URL": valkey.url(3),
            "BARE_RESULT_BACKEND": valkey.url(4),
        }
        os.environ.update(environment)
        container = build(Settings.load(), service="benchmark", connections=8)
        stack.callback(container.close)
        with container.database.transaction() as connection:
            migrate.upgrade(connection)
        admin = Accounts(container.database, environment["CELERIAC_SECRET_KEY"]).bootstrap_admin()
        actor = Actor(admin.key.user_id, "benchmark", Role.ADMIN)
        noop, wait = (_task(container, actor, name) for name in ("noop", "wait"))
        yield Stage(
            {**environment, "CELERIAC_API_KEY": admin.token},
            container, actor, noop, wait, home.logs,
        )  # fmt: skip


def _task(container: Container, actor: Actor, name: str) -> UUID:
    spec = PythonAgent(function=f"benchmarks.agents:{name}")
    Agents(container.database).create(actor, NewAgent(name=name, spec=spec))
    new = NewTask(name=name, agent=name, spec=TaskSpec())
    return Tasks(container.database).create(actor, new).id
