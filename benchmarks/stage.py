"""The environment of the benchmarks: real servers, and one user with three tasks."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import psutil
from redis import Redis

from benchmarks.programs import Programs
from benchmarks.watch import Watch
from celeriac.db import migrate
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.agents import AgentSpec, PythonAgent
from celeriac.domain.tasks import TaskSpec
from celeriac.embedded.home import Home
from celeriac.embedded.postgres import Postgres
from celeriac.embedded.process import ManagedProcess
from celeriac.embedded.valkey import Valkey
from celeriac.logs import LogOptions, Service, configure, shutdown
from celeriac.services.accounts import Accounts
from celeriac.services.catalog.agents import Agents
from celeriac.services.catalog.tasks import Tasks
from celeriac.settings import Settings
from celeriac.wiring.core import CoreServices, build
from tests.support.processes import start_and_wait

_SECRET_KEY = "benchmark-" * 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Running servers and programs, and the tasks to execute."""

    container: CoreServices
    actor: Actor
    api_key: str = field(repr=False)
    user: str
    """The name of the actor's user."""
    tasks: Mapping[str, UUID]
    """By the name of their function in `benchmarks.agents`."""
    programs: Programs
    watch: Watch
    valkey: Redis
    servers: Mapping[str, psutil.Process]

    @property
    def headers(self) -> dict[str, str]:
        """The headers of requests to the API."""
        return {"Authorization": f"Bearer {self.api_key}", "Content-Type": "application/json"}


@contextmanager
def stage() -> Iterator[Stage]:
    """Start PostgreSQL (with fsync) and Valkey in a temporary directory, and remove it afterwards.

    While it stands, this process has the same scrubbed environment as all that it starts, and logs
    as the API does: it stands in for it as the submitter of (a).
    """
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="celeriac-bench-")))
        home = Home.open(directory / "home")
        postgres, valkey = Postgres.prepare(home), Valkey.prepare(home)
        servers = {}
        for name, server in (("postgres", postgres), ("valkey", valkey)):
            process = ManagedProcess(server.spec(), home.log_file(name))
            stack.callback(process.stop)
            start_and_wait(process)
            servers[name] = psutil.Process(process.pid)
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "LANG": "C.UTF-8",
            "CELERIAC_HOME": str(directory / "work"),
            "CELERIAC_AGENT_MODULES": '["benchmarks.agents"]',
            "CELERIAC_SECRET_KEY": _SECRET_KEY,
            "DATABASE_URL": postgres.url(),
            "REDIS_URL": valkey.url(0),
            "BARE_BROKER_URL": valkey.url(3),
            "BARE_RESULT_BACKEND": valkey.url(4),
            "PEER_BROKER_URL": valkey.url(5),
            "PEER_DATABASE_URL": postgres.url("peers").replace("+psycopg", "", 1),
        }
        stack.enter_context(_only(environment))
        settings = Settings.load()
        configure(LogOptions(service=Service.API, directory=settings.logs, console="off"))
        stack.callback(shutdown)
        container = build(settings, service="benchmark", connections=8)
        stack.callback(container.close)
        migrate.upgrade(postgres.url())
        admin = Accounts(container.database, _SECRET_KEY).bootstrap_admin()
        actor = Actor(admin.key.user_id, "benchmark", Role.ADMIN, admin.key.workspace_id)
        watch = Watch(postgres.url())
        stack.callback(watch.close)
        yield Stage(
            container=container,
            actor=actor,
            api_key=admin.token,
            user=admin.key.user_name,
            tasks={
                name: add_task(
                    container, actor, name, PythonAgent(function=f"benchmarks.agents:{name}")
                )
                for name in ("noop", "length", "wait")
            },
            programs=Programs(environment, home.logs),
            watch=watch,
            valkey=stack.enter_context(Redis.from_url(valkey.url(), decode_responses=True)),
            servers=servers,
        )


@contextmanager
def _only(environment: Mapping[str, str]) -> Iterator[None]:
    """Replace this process's environment while the block runs."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def add_task(
    container: CoreServices, actor: Actor, name: str, agent: AgentSpec, *, prompt: str = ""
) -> UUID:
    """Make an agent and a task of the same name; return the task's id."""
    Agents(container.database).create(actor, name=name, spec=agent)
    made = Tasks(container.database).create(
        actor, name=name, agent=name, spec=TaskSpec(prompt=prompt)
    )
    return made.id
