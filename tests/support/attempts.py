"""Running attempts under test, with the contexts that their agents have."""

from pathlib import Path

from celeriac.domain.executions.model import Claim
from celeriac.services.executions.attempt import Attempt
from celeriac.services.executions.context import AttemptContext, AttemptServices
from celeriac.services.ports import Job, RunContext
from tests.support.core import Core
from tests.support.memory import MemoryRunner
from tests.support.spending import job_of, services_of


async def _nothing(_job: Job, _context: RunContext) -> None:
    """Do nothing."""


class AgentAttempt(Attempt):
    """An attempt whose agent the test plays, through `context`."""

    def __init__(
        self, core: Core, claim: Claim, workdir: Path, services: AttemptServices | None = None
    ) -> None:
        super().__init__(claim.lease)
        self.context = AttemptContext(
            self,
            job_of(claim),
            MemoryRunner(_nothing),
            services or services_of(core.database),
            workdir=workdir,
            correlation={},
        )
