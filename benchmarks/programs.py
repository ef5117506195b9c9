"""The programs of the benchmarks: real processes, ended at the end of a `with` block."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import psutil

from celeriac.embedded.home import LOOPBACK, reserve_port
from celeriac.embedded.process import ManagedProcess, ProcessSpec, ReadyCheck
from tests.support.processes import start_and_wait

_ROOT = Path(__file__).parent.parent
_STOP_SECONDS = 40.0


class Programs:
    """Runs programs in one environment, with their output in log files."""

    def __init__(self, environment: Mapping[str, str], logs: Path) -> None:
        """Each program gets `environment` and no other variables."""
        self._environment = environment
        self._logs = logs

    @contextmanager
    def run(
        self,
        name: str,
        *arguments: str,
        ready: ReadyCheck | None = None,
        environment: Mapping[str, str] | None = None,
        python: str = sys.executable,
    ) -> Iterator[psutil.Process]:
        """Run a Python module, with `environment` added to the common variables.

        Raises ServerFailedError with its last lines if it doesn't start.
        """
        spec = ProcessSpec(
            name=name,
            argv=(python, "-m", *arguments),
            env={**self._environment, **(environment or {})},
            cwd=_ROOT,
            ready=ready,
            stop_grace=_STOP_SECONDS,
        )
        program = ManagedProcess(spec, self._logs / f"{name}.log")
        try:
            start_and_wait(program)
            yield psutil.Process(program.pid)
        finally:
            ended = program.pid is None
            program.stop()
            if ended:
                raise program.failure("it ended while it was measured.")

    def worker(
        self, *, pool: str, concurrency: int, environment: Mapping[str, str] | None = None
    ) -> AbstractContextManager[psutil.Process]:
        """Run a worker of Celeriac with all its queues."""
        return self._celery_worker("ours", "celeriac", pool, concurrency, environment)

    def bare_worker(self, *, pool: str, concurrency: int) -> AbstractContextManager[psutil.Process]:
        """Run a worker of bare Celery."""
        return self._celery_worker("bare", "benchmarks.bare", pool, concurrency)

    def beat(self) -> AbstractContextManager[psutil.Process]:
        """Run the keeper."""
        return self.run("beat", "celery", "-A", "celeriac", "beat", "--loglevel=info")

    @contextmanager
    def api(self) -> Iterator[str]:
        """Run the HTTP API as `celeriac api` does; yield its address."""
        url = f"http://{LOOPBACK}:{(port := reserve_port())}"
        with self.run("api", "celeriac", "api", "--port", str(port), ready=_Answers(url)):
            yield url

    def _celery_worker(
        self,
        name: str,
        app: str,
        pool: str,
        concurrency: int,
        environment: Mapping[str, str] | None = None,
    ) -> AbstractContextManager[psutil.Process]:
        return self.run(
            f"{name}-{pool}", "celery", "-A", app, "worker", "-P", pool, "-c", str(concurrency),
            "-n", f"{name}-{pool}@%h", "--loglevel=info", "--without-gossip", "--without-mingle",
            environment=environment,
        )  # fmt: skip


class _Answers:
    """Ready check of the API."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __call__(self) -> str | None:
        try:
            httpx.get(f"{self._url}/health/live", timeout=2, trust_env=False).raise_for_status()
        except httpx.HTTPError as error:
            return str(error)
        return None
