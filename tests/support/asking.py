"""Questions under test: asked by attempts that a test drives, answered as people do."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any
from uuid import UUID

from celeriac.db import approvals
from celeriac.db.engine import Database
from celeriac.domain.approvals import (
    Answer,
    Approval,
    ApprovalFilter,
    ApprovalStatus,
    Question,
    QuestionKind,
)
from celeriac.domain.executions.model import Lease, Parked
from celeriac.domain.executions.states import WaitingFor
from celeriac.services.approvals.answer import Approvals
from celeriac.services.approvals.ask import Expire, Questions
from celeriac.wiring.core import CoreServices
from tests.support.core import Core
from tests.support.waiting import wait_until
from tests.support.working import claim, finish

YES = Answer(approved=True)
NO = Answer(approved=False, note="better not")


def a_question(key: str = "mail", **more: Any) -> Question:
    """Return whether a mail may be sent."""
    values: dict[str, Any] = {
        "kind": QuestionKind.TOOL,
        "title": "May it be sent?",
        "tool": "send_mail",
        "arguments": {"to": "ada@example.com"},
    }
    return Question(key=key, **(values | more))


def a_form(**more: Any) -> Question:
    """Return a form that asks for a colour and a size."""
    schema = {
        "type": "object",
        "properties": {
            "colour": {"enum": ["red", "green"]},
            "size": {"type": "integer", "minimum": 1},
        },
        "required": ["colour"],
        "additionalProperties": False,
    }
    values: dict[str, Any] = {"schema": schema}
    return Question(key="form", kind=QuestionKind.FORM, title="Which one?", **(values | more))


class Asking:
    """The core, and what deals with questions on it."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.database: Database = core.database
        self.approvals = Approvals(core.database, core.live, core.dispatch.send_eligible)
        self.questions = Questions(core.database, core.live)
        self.expire = Expire(core.database, core.live)

    def parked(self, *questions: Question) -> UUID:
        """Submit an execution whose first attempt is parked with questions."""
        claim = self.core.running()
        asked = questions or (a_question(),)
        self.core.end(claim, Parked(WaitingFor.APPROVAL, "It asks.", questions=asked))
        return claim.lease.execution_id

    def of(self, execution_id: UUID) -> list[Approval]:
        """Return an execution's questions in the order in which they were asked."""
        wanted = ApprovalFilter(execution_id=execution_id)
        with self.database.autocommit() as connection:
            return list(approvals.find(connection, wanted, before=None, limit=100).items)[::-1]

    def only(self, execution_id: UUID) -> Approval:
        """Return the one question of an execution."""
        (found,) = self.of(execution_id)
        return found

    def status(self, execution_id: UUID) -> ApprovalStatus:
        """Return how the one question of an execution stands."""
        return self.only(execution_id).status

    def answer(self, execution_id: UUID, given: Answer = YES) -> Approval:
        """Answer the one question of an execution, as its owner."""
        return self.approvals.answer(self.core.actor, self.only(execution_id).id, given)

    def pass_time(self, seconds: float) -> None:
        """Let so much time pass for every question."""
        self.core.execute(
            "UPDATE approvals SET expires_at = expires_at - make_interval(secs => :seconds),"
            " notify_at = notify_at - make_interval(secs => :seconds)",
            seconds=seconds,
        )

    def ask_in_place(self, lease: Lease, question: Question) -> "InPlace":
        """Begin to ask as an attempt that keeps its slot meanwhile; wait until it is stored."""
        asking = InPlace(lambda: asyncio.run(self.questions.ask(lease, question)))
        wait_until(
            lambda: (
                asking.ended
                or any(each.key == question.key for each in self.of(lease.execution_id))
            ),
            "the question is stored",
        )
        return asking


class InPlace:
    """An attempt's waiting for an answer, in a thread of its own."""

    def __init__(self, ask: Callable[[], Answer]) -> None:
        self._ask = ask
        self._answer: Answer | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        """Whether there is an answer or an error."""
        return not self._thread.is_alive()

    def result(self) -> Answer:
        """Return the answer when it is there; raises what the asking raised."""
        self._thread.join(30)
        assert self.ended, "the answer must have come by now"
        if self._error is not None:
            raise self._error
        assert self._answer is not None
        return self._answer

    def _run(self) -> None:
        try:
            self._answer = self._ask()
        except Exception as error:  # noqa: BLE001 - handed to the test
            self._error = error


def park(container: CoreServices, execution_id: UUID | str, *questions: Question) -> None:
    """Have a queued execution's first attempt ask, as its worker does."""
    asked = questions or (a_question(),)
    parked = Parked(WaitingFor.APPROVAL, "It asks.", questions=asked)
    finish(container, claim(container, execution_id), parked)
