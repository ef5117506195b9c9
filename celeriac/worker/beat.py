"""The keeper: beat's scheduler class, which runs the maintenance jobs.

Any number of beats may run: every action is a claim that only one of them can make.
"""

from typing import Any

from celery.beat import Scheduler

from celeriac import traces
from celeriac.kit.child_bootstrap import hide_memory
from celeriac.services.operations.keeper import MaintenanceRunner
from celeriac.services.operations.maintenance import JobRecord
from celeriac.wiring.core import CoreServices, build
from celeriac.wiring.keeper import KEEPER_CONNECTIONS, build_maintenance

_TICK_SECONDS = 1.0


class Keeper(Scheduler):
    """Keeps the maintenance jobs running; Celery's own schedule stays empty."""

    def __init__(self, *args: Any, lazy: bool = False, **kwargs: Any) -> None:
        """With `lazy` Celery inspects the class without starting it."""
        self._container: CoreServices | None = None
        self._jobs = MaintenanceRunner([])
        super().__init__(*args, lazy=lazy, **kwargs)

    def setup_schedule(self) -> None:
        """Start the jobs. Celery calls this once, in the beat process."""
        hide_memory()
        traces.start("beat")
        settings = self.app.celeriac.settings
        self._container = build(
            settings, service="beat", connections=KEEPER_CONNECTIONS, app=self.app
        )
        jobs = build_maintenance(self._container)
        record = JobRecord(self._container.database, [each.name for each in jobs])
        self._jobs = MaintenanceRunner(jobs, record)
        self._jobs.ensure_running()

    def tick(self, *_: Any, **__: Any) -> float:
        """Restart jobs whose thread has died; return the seconds until the next call."""
        self._jobs.ensure_running()
        return _TICK_SECONDS

    def close(self) -> None:
        """Stop the jobs and close the connections."""
        self._jobs.close()
        if self._container is not None:
            self._container.close()
        traces.stop()
