"""Sessions: the conversation of an execution; a later execution can continue it."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from celeriac.kit.json_types import JsonValue


class SessionStatus(StrEnum):
    """The status of a session."""

    ACTIVE = "active"
    """An execution uses it; that execution may be parked."""
    ENDED = "ended"
    """Its last execution has ended; another may continue it."""
    FAILED = "failed"
    """Its last execution failed; another may continue it."""
    DELETED = "deleted"
    """Its files are removed, and it can't be continued."""


@dataclass(frozen=True, slots=True)
class Session:
    """A session. `state` and `messages` are what the runner needs to continue.

    The API shows neither. Only an attempt reads the messages; they are empty elsewhere.
    """

    id: UUID
    workspace_id: UUID
    owner_id: UUID
    execution_id: UUID
    """The execution that created it."""
    runner: str
    parent_id: UUID | None
    """The session that it was forked from."""
    external_id: str | None
    """The id that the agent's own SDK gave it."""
    state: JsonValue
    status: SessionStatus
    error_code: str | None
    error_message: str | None
    created_at: datetime
    updated_at: datetime
    save_no: int = 0
    """The number of the last save that is stored."""
    messages: tuple[JsonValue, ...] = ()
    """The conversation, as its runner stored it."""


@dataclass(frozen=True, slots=True)
class TranscriptKey:
    """Names a part of the conversation that an agent's own SDK writes."""

    conversation: str
    project: str = ""
    """What the SDK sorts conversations by; empty for the session's own working directory."""
    subpath: str = ""
    """A part besides the main transcript, of a subagent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionFilter:
    """Which sessions to list; None means: all."""

    workspace_id: UUID | None = None
    execution_id: UUID | None = None
    """The sessions that this execution began or works in."""
    runner: str | None = None
    status: SessionStatus | None = None
