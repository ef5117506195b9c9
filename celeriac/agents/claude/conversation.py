"""A conversation with Claude Code: started, read, ended, and resumed by a later attempt."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from claude_agent_sdk import (
    ClaudeAgentOptions,
    ClaudeSDKClient,
    ClaudeSDKError,
    Message,
    ResultMessage,
)

from celeriac.domain.agents import RunnerName
from celeriac.domain.errors import ProviderError, SessionUnavailableError
from celeriac.kit.json_types import JsonObject
from celeriac.kit.loop import run_shielded
from celeriac.kit.words import counted
from celeriac.services.ports import Job

_START_SECONDS = 60.0
_INTERRUPT_SECONDS = 1.0
_DRAIN_SECONDS = 0.8
"""How long an interrupted conversation may take to write down where it stopped."""

_DISCONNECT_SECONDS = 0.7

Kill = Callable[[], Coroutine[Any, Any, None]]
Inbox = asyncio.Queue[Message | Exception]
"""Messages in order; an exception in it is raised in the task that awaits messages."""


class Conversation:
    """A connected client, with all that happens to it in one line: messages, ends, reasons to stop.

    Belongs to an event loop; made by `open`.
    """

    def __init__(self, client: ClaudeSDKClient, inbox: Inbox) -> None:
        self._client = client
        self._inbox = inbox
        self._ended = False
        self._reader = asyncio.create_task(self._read(), name="read Claude Code")

    @classmethod
    @asynccontextmanager
    async def open(
        cls, options: ClaudeAgentOptions, inbox: Inbox, kill: Kill
    ) -> AsyncIterator[Self]:
        """Connect, and give the conversation to the block.

        At the end, also after an error, a running conversation is interrupted and saved. Then
        Claude Code is asked to exit, and `kill` ends its remaining processes. Raises what the SDK
        raises.
        """
        client = ClaudeSDKClient(options)
        try:
            async with asyncio.timeout(_START_SECONDS):
                await client.connect()
        except BaseException:
            await run_shielded(kill())
            raise
        conversation = cls(client, inbox)
        try:
            yield conversation
        finally:
            await run_shielded(conversation._end(kill))

    async def say(self, prompt: str) -> None:
        """Send a prompt."""
        await self._client.query(prompt)

    async def messages(
        self, idle_seconds: float, *, excused: Callable[[], bool]
    ) -> AsyncIterator[Message]:
        """Yield messages up to and including the result.

        Raises ProviderError after `idle_seconds` without one, unless `excused` says that nothing
        is due; what was put into the inbox as a reason to stop; and what the SDK raises.
        """
        while True:
            try:
                async with asyncio.timeout(idle_seconds):
                    item = await self._inbox.get()
            except TimeoutError:
                if excused():
                    continue
                raise ProviderError(
                    f"Claude Code said nothing for {counted(idle_seconds, 'second')}."
                ) from None
            if isinstance(item, Exception):
                raise item
            self._ended = isinstance(item, ResultMessage)
            yield item
            if self._ended:
                return

    async def _read(self) -> None:
        try:
            async for message in self._client.receive_messages():
                self._inbox.put_nowait(message)
        except Exception as error:  # noqa: BLE001 - raised where messages are awaited
            self._inbox.put_nowait(error)
        else:
            self._inbox.put_nowait(ClaudeSDKError("Claude Code ended without a result."))

    async def _end(self, kill: Kill) -> None:
        """Interrupt, drain, disconnect, kill what is left; bounded in every step."""
        if not self._ended and not self._reader.done():
            with suppress(Exception):  # it is ended in any case
                async with asyncio.timeout(_INTERRUPT_SECONDS):
                    await self._client.interrupt()
            with suppress(Exception):
                async with asyncio.timeout(_DRAIN_SECONDS):
                    while not isinstance(await self._inbox.get(), ResultMessage | Exception):
                        pass
        leaving = asyncio.create_task(self._client.disconnect(), name="leave Claude Code")
        await asyncio.wait({leaving}, timeout=_DISCONNECT_SECONDS)
        await kill()
        await asyncio.wait({leaving}, timeout=_DISCONNECT_SECONDS)
        for task in (leaving, self._reader):
            task.cancel()
        await asyncio.gather(leaving, self._reader, return_exceptions=True)


GO_ON = "The work was interrupted from outside. Go on where you stopped."
"""The prompt for a conversation that a limit or a failing provider has stopped."""


class ResumePoint(StrEnum):
    """How the next attempt of the same execution uses the conversation."""

    BEGIN = "begin"
    """It is ignored: start over."""
    GO_ON = "go_on"
    """It stopped between two steps: continue."""
    OPEN_CALL = "open_call"
    """A tool call in it waits for a person's answer: resuming makes the call."""


@dataclass(frozen=True, slots=True)
class ResumeState:
    """How an attempt begins.

    `resume` is the conversation to continue. `prompt` is the first message; None for an open call,
    which is made without one. `calls` are the open tool calls. `answered` are the keys of the
    questions whose answers the conversation has followed.
    """

    resume: str | None
    prompt: str | None
    forks: bool = False
    calls: JsonObject = field(default_factory=dict)
    answered: tuple[str, ...] = ()
    place: str | None = None
    """The session's directory where the conversation stopped."""
    directory: str | None = None
    """Where in its working directory Claude Code was at the open call; None: there itself."""


def continuation_of(job: Job) -> ResumeState:
    """Return how an attempt begins.

    A later attempt of the same execution continues where the earlier one was parked, and starts
    over after a failure. Raises SessionUnavailableError for the session of another kind of agent.
    """
    session = job.session
    if session is None:
        return ResumeState(None, job.prompt)
    if session.runner != RunnerName.CLAUDE:
        raise SessionUnavailableError(
            f"The session {session.id} belongs to an agent of the kind {session.runner}; this "
            "agent's sessions are of the kind claude."
        )
    state: dict[str, Any] = session.state if isinstance(session.state, dict) else {}
    if state.get("execution_id") == str(job.execution_id) and session.external_id:
        # missing where an older release stored it
        answered, place = tuple(state.get("answered", ())), state.get("place")
        match state.get("next"):
            case ResumePoint.OPEN_CALL:
                return ResumeState(
                    session.external_id,
                    None,
                    calls=state["calls"],
                    answered=answered,
                    place=place,
                    directory=state.get("directory"),
                )
            case ResumePoint.GO_ON:
                return ResumeState(session.external_id, GO_ON, answered=answered)
    if session.execution_id == job.execution_id:
        return ResumeState(None, job.prompt)
    if session.external_id is None:
        raise SessionUnavailableError(
            f"The session {session.id} holds no conversation: its execution ended before the "
            "agent said anything. Run the task without it."
        )
    return ResumeState(session.external_id, job.prompt, forks=job.forks)


def state_of(
    job: Job,
    following: ResumePoint,
    calls: JsonObject,
    answered: Iterable[str] = (),
    where: tuple[str | None, str | None] = (None, None),
) -> JsonObject:
    """Return what a session stores for the next attempt; `where`: its place and directory."""
    return {
        "execution_id": str(job.execution_id),
        "next": following.value,
        "calls": dict(calls),
        "answered": list(answered),
        "place": where[0],
        "directory": where[1],
    }
