"""The servers that Celeriac needs and was not given: started, supervised, stopped."""

import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from celeriac.embedded.endpoints import Endpoints, RunningStack, publish_stack, withdraw_stack
from celeriac.embedded.errors import EmbeddedError, HomeUnusableError, ServerNotInstalledError
from celeriac.embedded.home import Home, HomeLock, RuntimeDirectory
from celeriac.embedded.model import LocalModel
from celeriac.embedded.output import Terminal
from celeriac.embedded.postgres import Postgres
from celeriac.embedded.process import ChildRecord
from celeriac.embedded.spec import ProcessSpec
from celeriac.embedded.supervisor import DEFAULT_POLICY, RestartPolicy, Supervisor
from celeriac.embedded.valkey import BROKER_DATABASE, RESULT_DATABASE, Valkey
from celeriac.kit.outbound import with_database
from celeriac.kit.processes import identify

_LEFTOVER_SECONDS = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StackOptions:
    """What comes from outside; each None is a server of our own.

    `home` None is `.celeriac` where we are. The broker and the result backend default to
    databases 1 and 2 of the Redis server. `local_model`: True demands the embedded model, None
    takes it where it is installed, False does without; a `model_base_url` replaces it.
    """

    home: Path | None = None
    database_url: str | None = None
    redis_url: str | None = None
    broker_url: str | None = None
    result_backend: str | None = None
    model_base_url: str | None = None
    local_model: bool | None = None
    models: Path | None = None
    """Where the weights of the embedded model are; `models` in the home, if None."""
    fast_unsafe: bool = False
    """For tests: PostgreSQL doesn't wait for the disk."""


class Stack:
    """One home's servers under one supervisor, which may be given more processes.

    A context manager for the main thread: entering takes the home's lock and ends what a killed
    run left; leaving stops everything in reverse order and gives the lock back. In between call
    `start`, then hand `supervisor` what else shall run, then `publish`, then `supervisor.run`.
    Inside, a signal to stop raises nothing but ends those calls; ask `supervisor.stop_requested`
    between them. One more signal kills what is still stopping.
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
        self._lock = HomeLock(self.home)
        self._record = ChildRecord(self.home)
        self.supervisor = Supervisor(self.home, self._record, terminal, policy=policy)
        self._postgres: Postgres | None = None
        self._undo = ExitStack()

    def __enter__(self) -> "Stack":
        with ExitStack() as undo:
            undo.enter_context(self._lock)
            undo.enter_context(self.supervisor.handling_signals())
            withdraw_stack(self.home)
            for child in self._record.end_leftovers(_LEFTOVER_SECONDS):
                self._terminal.say(f"ended {child.name} (process {child.pid}) of a killed run")
            undo.callback(self._remove_sockets)
            undo.callback(self.supervisor.stop)
            undo.callback(withdraw_stack, self.home)
            self._undo = undo.pop_all()  # each step happens even where the one before it fails
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._undo.close()

    def start(self) -> Endpoints:
        """Start the servers that weren't given, and wait until each serves.

        Raises ServerFailedError, ServerNotInstalledError, HomeUnusableError or StopRequestedError.
        """
        given = self._options
        specs: list[ProcessSpec] = []
        database_url = given.database_url or self._prepare_postgres(specs)
        redis_url = given.redis_url or self._prepare_valkey(specs)
        model_base_url = given.model_base_url or self._prepare_model(specs)
        self.supervisor.start(specs)
        return Endpoints(
            database_url=database_url,
            redis_url=redis_url,
            broker_url=given.broker_url or with_database(redis_url, BROKER_DATABASE),
            result_backend=given.result_backend or with_database(redis_url, RESULT_DATABASE),
            model_base_url=model_base_url,
        )

    def publish(self, endpoints: Endpoints, *, api_url: str | None = None) -> None:
        """Let other commands in this home find what runs, now and after each restart.

        Raises HomeUnusableError.
        """
        supervisor = identify(os.getpid())
        if supervisor is None:
            raise EmbeddedError("/proc is needed to tell processes apart, and isn't mounted.")

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
            except HomeUnusableError as error:  # a full disk: what runs goes on running
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
            self._terminal.say(f"going without a local model. {error}")
            return None
        specs.append(model.spec())
        return model.base_url
