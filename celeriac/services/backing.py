"""What stands behind a running attempt: its session, its questions, its leave to call models."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from uuid import UUID

import structlog

from celeriac.domain.approval import Answer, Question
from celeriac.domain.cassette import Cassette, Interaction
from celeriac.domain.errors import CassetteUnavailableError
from celeriac.domain.execution import Lease
from celeriac.domain.usage import ModelCall, PlannedCall, Ticket
from celeriac.kit.ids import uuid7
from celeriac.kit.jsontypes import JsonValue
from celeriac.logs import Step
from celeriac.services.admission import Admission
from celeriac.services.conversations import Conversations
from celeriac.services.ports import Job, Runner
from celeriac.services.questions import Questions
from celeriac.services.tapes import Tapes

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Backing:
    """The services that all attempts of a process share."""

    admission: Admission
    conversations: Conversations
    questions: Questions
    tapes: Tapes


class Backed:
    """Those services, for one attempt; called on any event loop, working in threads."""

    def __init__(self, backing: Backing, lease: Lease, job: Job, runner: Runner) -> None:
        """Serve the attempt of `lease`, which does `job` with `runner`."""
        self._backing = backing
        self._lease = lease
        self._job = job
        self._runner = runner
        self._parent_id = job.session.id if job.session and job.forks else None
        self._session_id = job.session.id if job.session and not job.forks else None
        self._new_session_id = uuid7()  # the same for all who save at once: it is made once
        self._saving = threading.Lock()

    @property
    def plays_cassette(self) -> bool:
        """Whether model requests are answered from a cassette: nothing is asked of a provider."""
        return self._job.options.cassette_id is not None

    async def admit(self, call: PlannedCall) -> Ticket | None:
        """Ask leave for a model call; what a cassette answers needs none."""
        if self.plays_cassette:
            return None
        return await self._backing.admission.admit(
            self._lease, self._job, call, may_park=self._runner.resumable
        )

    @property
    def bounds_money(self) -> bool:
        """Whether the execution's own budget, or its task's for each, bounds money."""
        own = self._job.budget
        return own is not None and own.max_cost is not None

    async def charge(self, call: ModelCall, ticket: Ticket | None) -> date | None:
        """Put what a call used in the place of what was reserved for it; see `Admission.charge`."""
        if self.plays_cassette:
            return None
        return await self._backing.admission.charge(self._lease, self._job, call, ticket)

    async def release(self, ticket: Ticket) -> None:
        """Give back what was reserved for a call that came to nothing."""
        await self._backing.admission.release(self._job, ticket)

    async def ask(self, question: Question) -> Answer:
        """Ask a person and wait for the answer."""
        return await self._backing.questions.ask(self._lease, question)

    async def answers(self) -> Mapping[str, Answer]:
        """Return the answers there are."""
        return await self._backing.questions.answers(self._lease.execution_id)

    async def cassette(self) -> Cassette:
        """Return the cassette to play."""
        cassette_id = self._job.options.cassette_id
        if cassette_id is None:
            raise CassetteUnavailableError("The options of the execution name no cassette.")
        return await self._backing.tapes.load(cassette_id)

    async def record(self, interactions: Sequence[Interaction], *, complete: bool) -> bool:
        """Add to the execution's cassette."""
        return await self._backing.tapes.add(
            self._lease, self._job, interactions, complete=complete
        )

    async def save_session(self, *, external_id: str | None, state: JsonValue) -> UUID:
        """Store what is needed to go on; make the session on first use."""
        conversations = self._backing.conversations
        if self._session_id is None:
            await conversations.begin(
                self._lease,
                self._new_session_id,
                runner=self._runner.name,
                parent_id=self._parent_id,
            )
            with self._saving:
                fresh, self._session_id = self._session_id is None, self._new_session_id
            if fresh:
                logger.info(Step.SESSION_CREATED, session_id=self._session_id)
        if external_id is not None or state is not None:
            await conversations.save(
                self._lease, self._session_id, external_id=external_id, state=state
            )
        return self._session_id
