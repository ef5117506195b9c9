"""The system of the run: servers, programs, and what was done to their processes."""

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import psutil

from celeriac.adapters.celery_queue import QUEUES
from celeriac.client import Client
from celeriac.db import migrate
from celeriac.db.engine import Database
from celeriac.embedded.home import reserve_port
from celeriac.kit.json_types import dumps, loads
from tests.support.chaos import agents
from tests.support.chaos.catalog import LLM_QUEUE, PRICES, Model, make_catalog
from tests.support.chaos.cluster import Cluster
from tests.support.chaos.plan import APIS, BEATS, LEASE_SECONDS, PREFORK_WORKERS, THREAD_WORKERS
from tests.support.chaos.plan import WORKERS as WORKER_NAMES
from tests.support.chaos.processes import children_of, signal_all
from tests.support.chaos.proxy import PostgresProxy
from tests.support.fleet import API_FACTORY, Fleet, running_fleet
from tests.support.pgbouncer import PgBouncer
from tests.support.places import temporary_directory
from tests.support.programs import Program
from tests.support.servers import ValkeyServer, running_valkey
from tests.support.waiting import wait_until

_TIMES = {
    "CELERIAC_WORKER_LEASE_SECONDS": f"{LEASE_SECONDS:g}",
    "CELERIAC_WORKER_HEARTBEAT_SECONDS": "0.5",
    "CELERIAC_KEEPER_INTERVAL_SECONDS": "0.3",
    "CELERIAC_KEEPER_RESEND_SECONDS": "4",
    "CELERIAC_CELERY_VISIBILITY_TIMEOUT": "8",
    "CELERIAC_CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT": "2",
}
_START_SECONDS = 90.0
_STOP_SECONDS = 60.0
_RESTART_SECONDS = 1.0
_THREADS, _CHILDREN = 8, 2


@dataclass(frozen=True, slots=True)
class Struck:
    """A process that the run itself has ended or stopped for a while."""

    pid: int
    begun: float
    ended: float
    """When it went on; for one that has ended, never."""
    asked: bool = False
    """Whether it was only asked to end (SIGTERM)."""


class System:
    """Everything that runs, by name. Programs may be started by the main thread alone."""

    def __init__(
        self,
        *,
        fleet: Fleet,
        cluster: Cluster,
        proxy: PostgresProxy,
        valkey: ValkeyServer,
        model: Model,
        diary: Path,
        pooler: PgBouncer | None,
    ) -> None:
        self.fleet = fleet
        self.cluster = cluster
        self.proxy = proxy
        self.valkey = valkey
        self.model = model
        self.diary = diary
        self._pooler = pooler
        self.programs: dict[str, Program] = {}
        self.addresses = [f"http://127.0.0.1:{reserve_port()}" for _ in APIS]
        self.api_key = fleet.key()
        self.struck: list[Struck] = []
        self.died: list[tuple[float, str]] = []
        """Programs that ended though nobody had ended them: when, and which with its last words."""
        self.stubborn: list[tuple[float, str]] = []
        """Programs that did not end when they were asked to: when, and which."""
        self._seen_dead: dict[tuple[str, int], float] = {}
        self._absent: set[str] = set()
        prices = fleet.home / "prices.json"
        prices.write_text(dumps(PRICES))
        self._environment = {
            **_TIMES,
            "CELERIAC_AGENT_MODULES": dumps([agents.__name__]),
            "CELERIAC_PROVIDERS": dumps(model.providers()),
            "CELERIAC_PRICES_FILE": str(prices),
            "CELERIAC_LOG_EXECUTION_FILES": "false",
        }
        if pooler is not None:
            self._environment["DATABASE_URL"] = cluster.pooled_url(pooler)
            self._environment["CELERIAC_DATABASE_POOLER"] = "true"

    def start(self) -> None:
        """Start all programs, wait until they serve, and make the catalog."""
        for name, address in zip(APIS, self.addresses, strict=True):
            port = address.rsplit(":", 1)[1]
            self._program(name, ["-m", "uvicorn", "--factory", API_FACTORY, "--port", port])
        others = ",".join(queue for queue in QUEUES if queue != LLM_QUEUE)
        for name in THREAD_WORKERS:
            self._worker(name, "threads", _THREADS, ",".join(QUEUES))
        for name in PREFORK_WORKERS:
            self._worker(name, "prefork", _CHILDREN, others)
        for name in BEATS:
            self._program(name, ["-m", "celery", "-A", "celeriac", "beat", "--loglevel=INFO"])
        for address in self.addresses:
            wait_until(partial(_serves, address), f"{address} serves", within=_START_SECONDS)
        for name in WORKER_NAMES:
            count = _CHILDREN if name in PREFORK_WORKERS else 1
            self.fleet.wait_ready(self.programs[name], count)
        with Client(self.addresses[0], self.api_key) as client:
            make_catalog(client)

    def _worker(self, name: str, pool: str, slots: int, queues: str) -> None:
        arguments = ["-m", "celery", "-A", "celeriac", "worker", "--pool", pool, "-c", str(slots)]
        arguments += ["-n", f"{name}@fleet", "-Q", queues, "--loglevel=INFO"]
        self._program(name, [*arguments, "--without-gossip", "--without-mingle"])

    def _program(self, name: str, arguments: Sequence[str]) -> None:
        self.programs[name] = self.fleet.program(name, arguments, **self._environment)

    # what faults need

    def require_pooler(self) -> PgBouncer:
        """Return the pooler; a plan has its faults only if there is one."""
        assert self._pooler is not None, "this system has no pooler"
        return self._pooler

    def kill(self, name: str) -> None:
        """End a program's own process (SIGKILL)."""
        program = self.programs[name]
        self._absent.add(name)
        if program.exit_code is None:
            self.note_killed([program.pid, *(each.pid for each in self.tree(name))])
            program.kill()

    def terminate(self, name: str) -> None:
        """Ask a program to end (SIGTERM)."""
        self._absent.add(name)
        program = self.programs[name]
        if program.exit_code is None:
            now = time.time()
            for pid in (program.pid, *(each.pid for each in self.tree(name))):
                self.struck.append(Struck(pid, now, float("inf"), asked=True))
            program.terminate()

    def start_again(self, name: str) -> bool:
        """Start a program that has ended; False while it still runs, which is not for ever."""
        program = self.programs[name]
        if program.exit_code is None:
            asked = max((each.begun for each in self.struck if each.pid == program.pid), default=0)
            if time.time() - asked > _STOP_SECONDS:
                self.stubborn.append((time.time(), f"{name} did not end on SIGTERM"))
                self.kill(name)
            return False
        program.restart()
        self._absent.discard(name)
        return True

    def tree(self, name: str) -> list[psutil.Process]:
        """Return what runs below a program."""
        return children_of(self.programs[name].pid, recursive=True)

    def children(self, name: str) -> list[psutil.Process]:
        """Return a program's own children."""
        return children_of(self.programs[name].pid)

    def note_killed(self, pids: Sequence[int]) -> None:
        """Remember that these processes were ended."""
        self.struck.extend(Struck(pid, time.time(), float("inf")) for pid in pids)

    def freeze(self, name: str) -> list[psutil.Process]:
        """Stop a program and all below it (SIGSTOP); return what was stopped."""
        if self.programs[name].exit_code is not None:
            return []
        stopped = [psutil.Process(self.programs[name].pid), *self.tree(name)]
        signal_all(stopped, signal.SIGSTOP)
        return stopped

    def thaw(self, stopped: Sequence[psutil.Process], since: float) -> None:
        """Let them go on (SIGCONT)."""
        signal_all(stopped, signal.SIGCONT)
        self.struck.extend(Struck(process.pid, since, time.time()) for process in stopped)

    def look_after(self) -> None:
        """Start again what has ended by itself, as a service manager would, and remember it."""
        for name, program in self.programs.items():
            if program.exit_code is None or name in self._absent:
                continue
            if (name, program.pid) not in self._seen_dead:
                self._seen_dead[name, program.pid] = time.monotonic()
                self.died.append((time.time(), f"{name} ({program.exit_code}): {_why(program)}"))
                self.note_killed([program.pid])
            elif time.monotonic() - self._seen_dead[name, program.pid] > _RESTART_SECONDS:
                program.restart()

    # the end

    def database(self) -> Database:
        """Return a connection to the primary that no fault of the proxy touches."""
        return Database(self.cluster.url, connections=2, application="chaos")

    def stop(self) -> list[str]:
        """Stop all programs cleanly; return what didn't end, or was left behind."""
        left = []
        for name in self.programs:
            self.terminate(name)
        deadline = time.monotonic() + _STOP_SECONDS
        for name, program in self.programs.items():
            while program.exit_code is None and time.monotonic() < deadline:
                time.sleep(0.05)
            if program.exit_code is None:
                left.append(f"{name} did not end on SIGTERM")
                program.close()
        return left + [f"a process is left: {each}" for each in self.leftovers()]

    def leftovers(self) -> list[str]:
        """Return the processes of this system that belong to no program that still runs."""
        home = str(self.fleet.home)
        known = {program.pid for program in self.programs.values() if program.exit_code is None}
        found = []
        for process in psutil.process_iter():
            try:
                ours = process.environ().get("HOME") == home
                ancestors = {parent.pid for parent in process.parents()}
                gone = process.status() == psutil.STATUS_ZOMBIE
                if ours and not gone and process.pid not in known and not ancestors & known:
                    found.append(f"{process.pid} {' '.join(process.cmdline())[:200]}")
            except psutil.Error:
                continue
        return found


def _why(program: Program) -> str:
    """Return the last words of a program: its last critical line, or its last line at all."""
    lines = program.output().strip().splitlines() or [""]
    for line in reversed(lines):
        if line.startswith("{") and '"critical"' in line:
            return str(loads(line).get("event"))
    return lines[-1]


def _serves(address: str) -> bool:
    try:
        answer = httpx.get(f"{address}/health/live", timeout=2, trust_env=False)
    except httpx.TransportError:
        return False
    return answer.is_success


@contextmanager
def running_system(*, pooler: bool = False) -> Iterator[System]:
    """Run a system in a temporary directory; at the end nothing of it is left.

    With `pooler` the programs reach PostgreSQL through PgBouncer, and that through the proxy.
    """
    model = Model()
    with (
        temporary_directory() as home,
        temporary_directory() as shared,
        ExitStack() as stack,
        model.server.running(),
        running_valkey() as valkey,
        PostgresProxy().running() as proxy,
    ):
        shared.chmod(0o777)  # agents may run as another user
        diary = shared / "diary"
        diary.touch()
        diary.chmod(0o666)
        cluster = Cluster(home)
        try:
            cluster.start()
            migrate.upgrade(cluster.url)
            proxy.lead_to(cluster.socket)
            url = cluster.proxied_url(proxy.port)
            (home / "fleet").mkdir()
            before = stack.enter_context(cluster.behind_pooler(proxy.port)) if pooler else None
            with running_fleet(home / "fleet", database_url=url, redis_url=valkey.url()) as fleet:
                system = System(
                    fleet=fleet,
                    cluster=cluster,
                    proxy=proxy,
                    valkey=valkey,
                    model=model,
                    diary=diary,
                    pooler=before,
                )
                system.start()
                yield system
        finally:
            cluster.close()
