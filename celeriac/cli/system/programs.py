"""API, worker and beat as the supervisor runs them."""

import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import httpx
import psutil

from celeriac.adapters.celery_app import QUEUES
from celeriac.cli.arguments import CELERY, worker_arguments
from celeriac.cli.system.ports import reachable_url
from celeriac.db import workers
from celeriac.db.engine import Database
from celeriac.domain.errors import DatabaseUnavailableError
from celeriac.embedded.spec import ProcessSpec

API = "api"
WORKER = "worker"
BEAT = "beat"

_API_GRACE = 20.0
_BEAT_GRACE = 15.0
_HAND_BACK_SECONDS = 15.0
"""What a worker gets beyond its soft shutdown, to hand back what could not finish."""
_CHECK_SECONDS = 2.0
_FRESH_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """What to run. `environment` is the whole environment of each process."""

    environment: Mapping[str, str]
    host: str
    port: int
    worker_options: Sequence[str]
    soft_shutdown: float

    def specs(self, worker_ready: "WorkerReady") -> Sequence[ProcessSpec]:
        """Return worker, beat and API in the order of their start; they stop in the reverse."""
        return self._worker(worker_ready), self._beat(), self._api()

    def _worker(self, ready: "WorkerReady") -> ProcessSpec:
        arguments = worker_arguments(self.worker_options, QUEUES)
        return ProcessSpec(
            name=WORKER,
            argv=(*_CELERY, "worker", *arguments),
            env=self.environment,
            ready=ready,
            stop_grace=self.soft_shutdown + _HAND_BACK_SECONDS,
        )

    def _beat(self) -> ProcessSpec:
        return ProcessSpec(
            name=BEAT,
            argv=(*_CELERY, "beat", "--loglevel=INFO"),
            env=self.environment,
            stop_grace=_BEAT_GRACE,
        )

    def _api(self) -> ProcessSpec:
        options = (f"--host={self.host}", f"--port={self.port}")
        return ProcessSpec(
            name=API,
            argv=(sys.executable, "-P", "-m", "celeriac", "api", *options),
            env=self.environment,
            ready=ApiReady(reachable_url(self.host, self.port)),
            stop_grace=_API_GRACE,
        )


_CELERY = (
    sys.executable,
    "-W",
    # Celery's advice for pickled messages, which we never take
    "ignore:You're running the worker with superuser privileges",
    *CELERY,
    "--quiet",
    "-A",
    "celeriac",
)


@dataclass(frozen=True, slots=True)
class ApiReady:
    """Ready check: the API answers."""

    url: str

    def __call__(self) -> str | None:
        """Return None if it does, else why not."""
        try:
            with httpx.Client(trust_env=False, timeout=_CHECK_SECONDS) as client:
                answer = client.get(f"{self.url}/health/live")
        except httpx.HTTPError as error:
            return str(error)
        return None if answer.is_success else f"it answers {answer.status_code}"


class WorkerReady:
    """Ready check: the worker that runs now has reported itself to the database.

    An earlier one's row doesn't count, though it is still fresh after a crash.
    """

    def __init__(self, database: Database, find_pid: Callable[[], int | None]) -> None:
        """`find_pid` returns the pid of the worker that runs now."""
        self._database = database
        self._find_pid = find_pid

    def __call__(self) -> str | None:
        """Return None if it has, else why it doesn't count as ready."""
        pid = self._find_pid()
        host = socket.gethostname()
        try:
            with self._database.statement() as connection:
                found = workers.live(connection, within_seconds=_FRESH_SECONDS)
        except DatabaseUnavailableError as error:
            return error.message
        here = [row.pid for row in found if row.hostname.endswith(f"@{host}")]
        if any(_belongs(each, pid) for each in here):
            return None
        return "it has not reported itself to the database"


def _belongs(pid: int, leader: int | None) -> bool:
    """Whether `pid` is the worker itself or, with prefork, a child of it."""
    try:
        return pid == leader or psutil.Process(pid).ppid() == leader
    except psutil.NoSuchProcess:
        return False
