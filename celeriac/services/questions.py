"""Questions of running attempts to people, and the answers."""

import asyncio
from collections.abc import Mapping
from uuid import UUID

import structlog

from celeriac.db import approvals
from celeriac.db.engine import Database
from celeriac.domain.approval import Answer, Question
from celeriac.domain.errors import LeaseLostError
from celeriac.domain.execution import Lease
from celeriac.logs import Step

logger = structlog.get_logger(__name__)

_LOOK_SECONDS = 0.5
"""How often an attempt that waits in its place looks for its answer."""


class Questions:
    """Asks in the name of attempts."""

    def __init__(self, database: Database) -> None:
        """Work on `database`."""
        self._database = database

    def answers(self, execution_id: UUID) -> Mapping[str, Answer]:
        """Return the answers to an execution's questions, by key."""
        with self._database.statement() as connection:
            return approvals.answers(connection, execution_id)

    async def ask(self, lease: Lease, question: Question) -> Answer:
        """Store a question and wait until it is answered; see `RunContext.ask`."""
        await asyncio.to_thread(self._store, lease, question)
        while True:
            found = await asyncio.to_thread(self.answers, lease.execution_id)
            if question.key in found:
                return found[question.key]
            await asyncio.sleep(_LOOK_SECONDS)

    def _store(self, lease: Lease, question: Question) -> None:
        with self._database.statement() as connection:
            held = approvals.ask(connection, lease, question)
        if not held:
            raise LeaseLostError("This worker no longer owns the attempt.")
        logger.info(Step.APPROVAL_ASKED, kind=question.kind, key=question.key)
