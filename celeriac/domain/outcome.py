"""What an attempt came to: the words between a runner, the pipeline and the database."""

from dataclasses import dataclass, field
from enum import StrEnum

from celeriac.domain.approval import Question
from celeriac.kit.jsontypes import JsonObject, JsonValue


@dataclass(frozen=True, slots=True)
class Completed:
    """The work is done; `result` is any JSON value."""

    result: JsonValue


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed, ready to be stored.

    `details` holds at least `type`, `traceback` and `attempt` (REQUIREMENTS A5).
    """

    code: str
    message: str
    details: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Retry:
    """The attempt failed; another follows after `delay` seconds."""

    failure: Failure
    delay: float


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt failed and no other follows."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class Stopped:
    """The attempt was stopped because somebody cancelled the execution."""


@dataclass(frozen=True, slots=True)
class HandedBack:
    """The worker returns the execution; counts neither as a retry nor as a crash.

    It shuts down, or it can't run the attempt for a reason of its own, which `failure` then names.
    Another attempt follows after `delay` seconds.
    """

    failure: Failure | None = None
    delay: float = 0.0


class WaitingFor(StrEnum):
    """What a parked execution waits for."""

    APPROVAL = "approval"
    BUDGET = "budget"
    PROVIDER_LIMIT = "provider_limit"


@dataclass(frozen=True, slots=True)
class Parked:
    """The attempt ends here and holds no worker; another one goes on from the session.

    It goes on once all `questions` are answered or, where there are none, after `seconds`.
    """

    reason: WaitingFor
    note: str
    """Why, in a sentence for people."""
    questions: tuple[Question, ...] = ()
    seconds: float | None = None

    def __post_init__(self) -> None:
        """Refuse what would wait for ever."""
        if not self.questions and self.seconds is None:
            raise ValueError("a parked execution needs a question or a time")


class MustWaitError(Exception):
    """Raised inside an agent where its attempt must be parked; holds the outcome."""

    def __init__(self, parked: Parked) -> None:
        super().__init__(parked.note)
        self.parked = parked


Outcome = Completed | Retry | Failed | Stopped | HandedBack | Parked
"""Every way an attempt can end while its worker still holds the lease."""
