"""What an attempt came to: the words between a runner, the pipeline and the database."""

from dataclasses import dataclass, field

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
    """The worker shuts down and returns the execution; counts neither as retry nor as crash."""


Outcome = Completed | Retry | Failed | Stopped | HandedBack
"""Every way an attempt can end while its worker still holds the lease."""
