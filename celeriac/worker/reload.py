"""What a worker does when the code of its agents changes on the disk: it says so, or restarts."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import structlog

from celeriac.agents.python.functions import LOADED

logger = structlog.get_logger(__name__)


class CodeWatch:
    """Looks at the files of the modules that this process has imported; used by one thread."""

    def __init__(self, restart: Callable[[], None] | None) -> None:
        """`restart` ends the worker, so that its supervisor starts it anew; None: only say it."""
        self._restart = restart
        self._told: set[Path] = set()

    def look(self) -> None:
        """Look once; tell of each file that has changed, once."""
        LOADED.note()
        changed = [file for file in LOADED.changed() if file not in self._told]
        if not changed:
            return
        self._told.update(changed)
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
    """Have a worker let finish what runs and end, as `SIGTERM` does."""
    os.kill(worker_pid, signal.SIGTERM)
