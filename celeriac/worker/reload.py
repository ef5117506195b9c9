"""Detects changes of the agents' code on disk: the worker warns, or restarts."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import structlog

from celeriac.agents.python.functions import LOADED

logger = structlog.get_logger(__name__)


class CodeWatch:
    """Watches the files of imported modules. Used by one thread."""

    def __init__(self, restart: Callable[[], None] | None) -> None:
        """`restart` ends the worker, so that its supervisor restarts it; None only warns."""
        self._restart = restart
        self._reported: set[Path] = set()

    def look(self) -> None:
        """Check once; each changed file is reported once."""
        LOADED.note()
        changed = [file for file in LOADED.changed() if file not in self._reported]
        if not changed:
            return
        self._reported.update(changed)
        files = [str(file) for file in changed]
        if self._restart is None:
            logger.warning(
                "worker.code_changed",
                files=files,
                cure="coroutines and new functions run as they were: restart the worker",
            )
        else:
            logger.info("worker.restarts", reason="the code of its agents has changed", files=files)
            self._restart()


def end_worker(worker_pid: int) -> None:
    """Shut a worker down with SIGTERM: what runs may finish."""
    os.kill(worker_pid, signal.SIGTERM)
