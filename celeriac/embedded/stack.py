"""The embedded servers of one home under one supervisor."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from celeriac.embedded.endpoints import Endpoints, RunningStack, publish_stack, withdraw_stack
from celeriac.embedded.errors import EmbeddedError, HomeUnusableError, ServerNotInstalledError
from celeriac.embedded.home import Home, RuntimeDirectory, holding_lock
from celeriac.embedded.model import LocalModel
from celeriac.embedded.output import Terminal
from celeriac.embedded.postgres import Postgres
from celeriac.embedded.process import ChildRecord, ProcessSpec
from celeriac.embedded.supervisor import DEFAULT_POLICY, RestartPolicy, Supervisor
from celeriac.embedded.valkey import BROKER_DATABASE, RESULT_DATABASE, Valkey
from celeriac.kit.processes import identify
from celeriac.kit.redis_urls import with_database

_LEFTOVER_SECONDS = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StackOptions:
    """Addresses of existing servers; None starts an embedded one.

    `home` None is `.celeriac` in the current directory. The broker and the result backend default
    to databases 1 and 2 of the Redis server. `local_model`: True requires the embedded model, None
    starts it if it is installed, False does not; a `model_base_url` replaces it.
    """

    home: Path | None = None
    database_url: str | None = None
    redis_url: str | None = None
    broker_url: str | None = None
    result_backend: str | None = None
    model_base_url: str | None = None
    local_model: bool | None = None
    models: Path | None = None
    """Directory of the weights of the embedded model; None: `models` in the home."""
    fast_unsafe: bool = False
    """For tests: PostgreSQL does not wait for the disk."""


class Stack:
    """The servers of one home under one supervisor, which can run more processes.

    A context manager for the main thread: entering takes the home's lock and ends the processes
    that a killed run left; leaving stops everything in reverse order and releases the lock. Inside,
    call `start`, then give `supervisor` further processes, then call `publish` and
    `supervisor.run`. A signal to stop raises nothing but ends these calls; check
    `supervisor.stop_requested` between them. A second signal kills the processes that are still
    stopping.
    """

    def __init__(
        self,
        options: StackOptions,
        terminal: Terminal,
        *,
        policy: RestartPolicy = DEFAULT_POLICY,
    ) -> None:
        self.home = Home.open(options.home)
        self._options = options
        self._terminal = terminal
        self._record = ChildRecord(self.home)
        self.supervisor = Supervisor(self.home, self._record, terminal, policy=policy)
        self._postgres: Postgres | None = None
        self._undo = ExitStack()

    def __enter__(self) -> "Stack":
        with ExitStack() as undo:
            undo.enter_context(holding_lock(self.home))
            undo.enter_context(self.supervisor.handling_signals())
            withdraw_stack(self.home)
            for child in self._record.end_leftovers(_LEFTOVER_SECONDS):
                self._terminal.say(f"ended {child.name} (process {child.pid}) of a killed run")
            undo.callback(self._remove_sockets)
            undo.callback(self.supervisor.stop)
            undo.callback(withdraw_stack, self.home)
            self._undo = undo.pop_all()  # each step runs even where the one before it fails
        return self

    def __exit__(self, *error: object) -> None:
        self._undo.close()

    def start(self, prepare: Callable[[str], None] = lambda _: None) -> Endpoints:
        """Start the servers without an address, and wait until each serves.

        `prepare` is called with the address of the database as soon as that serves, before the
        others start; what it raises ends the start. Raises ServerFailedError,
        ServerNotInstalledError, HomeUnusableError or StopRequestedError.
        """
        given = self._options
        specs: list[ProcessSpec] = []
        database_url = given.database_url or self._prepare_postgres(specs)
        others: list[ProcessSpec] = []
        redis_url = given.redis_url or self._prepare_valkey(others)
        model_base_url = given.model_base_url or self._prepare_model(others)
        self.supervisor.start(specs)
        prepare(database_url)
        self.supervisor.start(others)
        return Endpoints(
            database_url=database_url,
            redis_url=redis_url,
            broker_url=given.broker_url or with_database(redis_url, BROKER_DATABASE),
            result_backend=given.result_backend or with_database(redis_url, RESULT_DATABASE),
            model_base_url=model_base_url,
        )

    def publish(self, endpoints: Endpoints, *, api_url: str | None = None) -> None:
        """Write the connection file of other commands, now and after each restart.

        Raises HomeUnusableError.
        """
        supervisor = identify(os.getpid())
        if supervisor is None:
            raise EmbeddedError("/proc is needed to identify processes, and isn't mounted.")

        def write() -> None:
            pids = {each.spec.name: each.pid for each in self.supervisor.processes if each.pid}
            publish_stack(
                self.home,
                RunningStack(
                    endpoints=endpoints, supervisor=supervisor, pids=pids, api_url=api_url
                ),
            )

        def write_again() -> None:
            try:
                write()
            except HomeUnusableError as error:  # a full disk: the stack runs on
                self._terminal.say(f"the connection file is out of date: {error.message}")

        write()
        self.supervisor.on_ready = write_again

    def _remove_sockets(self) -> None:
        if self._postgres:
            RuntimeDirectory(self.home, self._postgres.user).remove()

    def _prepare_postgres(self, specs: list[ProcessSpec]) -> str:
        self._postgres = Postgres.prepare(self.home, fast_unsafe=self._options.fast_unsafe)
        specs.append(self._postgres.spec())
        return self._postgres.url()

    def _prepare_valkey(self, specs: list[ProcessSpec]) -> str:
        valkey = Valkey.prepare(self.home)
        specs.append(valkey.spec())
        return valkey.url()

    def _prepare_model(self, specs: list[ProcessSpec]) -> str | None:
        if self._options.local_model is False:
            return None
        try:
            model = LocalModel.prepare(self.home, models=self._options.models)
        except ServerNotInstalledError as error:
            if self._options.local_model:
                raise
            self._terminal.say(f"no local model is started. {error}")
            return None
        specs.append(model.spec())
        return model.base_url
