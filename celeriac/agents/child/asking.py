"""The questions of one child process to people: asked while the child's other messages go on."""

import asyncio
from types import TracebackType
from typing import Self

from celeriac.agents.child.process import ChildProcess
from celeriac.agents.child.protocol import AskMessage, ChildMessage, answer_message
from celeriac.domain.agent import ApprovalPolicy
from celeriac.domain.approval import Question
from celeriac.domain.errors import ChildProtocolError
from celeriac.kit.threads import CHECKS
from celeriac.services.ports import RunContext

MAX_OPEN = 100
"""How many questions of one child may be open at once."""


class Asking:
    """Asks in a child's name and sends it the answers; at the block's end nothing is waited for."""

    def __init__(self, child: ChildProcess, context: RunContext, policy: ApprovalPolicy) -> None:
        """Ask by `policy` what the child leaves open."""
        self._child = child
        self._context = context
        self._policy = policy
        self._waiting: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for task in self._waiting:
            task.cancel()
        await asyncio.gather(*self._waiting, return_exceptions=True)

    def ask(self, message: AskMessage) -> None:
        """Ask, and send the answer when it comes. Raises ChildProtocolError for too many."""
        if len(self._waiting) >= MAX_OPEN:
            raise ChildProtocolError(
                f"The child process has {MAX_OPEN} open questions; it must wait for answers first."
            )
        self._waiting.add(asyncio.create_task(self._answer(message), name=f"ask {message.key}"))

    async def next_message(self) -> ChildMessage | None:
        """Return the child's next message; raises what a question comes to instead of an answer."""
        self._raise_faults()
        if not self._waiting:
            return await self._child.next_message()
        message = asyncio.ensure_future(self._child.next_message())
        try:
            while not message.done():
                await asyncio.wait({message, *self._waiting}, return_when=asyncio.FIRST_COMPLETED)
                if not message.done():
                    self._raise_faults()
            return message.result()
        finally:
            message.cancel()

    def _raise_faults(self) -> None:
        for task in [task for task in self._waiting if task.done()]:
            self._waiting.remove(task)
            task.result()

    async def _answer(self, message: AskMessage) -> None:
        answer = await self._context.ask(await question_of(message, self._policy))
        self._child.send(answer_message(message.key, answer, self._context.time_limits))


async def question_of(message: AskMessage, policy: ApprovalPolicy) -> Question:
    """Return what is to be asked; a schema is checked in a thread. Raises InvalidInputError."""
    if message.answer_schema is None:
        return message.question(policy)
    return await CHECKS.run(message.question, policy)
