"""The life of one supervised process: starting, ready, dead, started again, given up."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from celeriac.embedded.process import ManagedProcess, describe_exit


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """When a process that died is started again, in seconds.

    The delay doubles from `first_delay` up to `longest_delay`. A process that was ready for
    `stable_after` has earned a clean sheet; `most_deaths` in a row without that are too many.
    """

    first_delay: float = 0.5
    longest_delay: float = 15.0
    stable_after: float = 30.0
    most_deaths: int = 6

    def delay(self, deaths: int) -> float:
        """Return the pause after so many deaths in a row (1, 2, …)."""
        return min(self.first_delay * 2.0 ** (deaths - 1), self.longest_delay)


DEFAULT_POLICY = RestartPolicy()


class State(Enum):
    """What a supervised process is doing."""

    STARTING = auto()
    READY = auto()
    PAUSING = auto()
    """Dead; will be started again."""


class Supervised:
    """One process under a restart policy. Times are a monotonic clock's, handed in.

    A process that never served is not tried again: what keeps it from starting is for people.
    """

    def __init__(
        self, process: ManagedProcess, policy: RestartPolicy, say: Callable[[str], None]
    ) -> None:
        self.process = process
        self.state = State.STARTING
        self._policy = policy
        self._say = say
        self._since = 0.0
        self._resume_at = 0.0
        self._deaths = 0
        self._served_once = False

    @property
    def name(self) -> str:
        """The name that its spec gives it."""
        return self.process.spec.name

    def start(self, now: float) -> None:
        """Start the process. Raises ServerFailedError where it can't be run at all."""
        self.process.start()
        self._enter(State.STARTING, now)

    def step(self, now: float) -> None:
        """Look at it, and do what is due. Raises ServerFailedError when it must be given up."""
        if self.state is State.PAUSING:
            if now >= self._resume_at:
                self.start(now)
        elif self.process.pid is None:
            how = describe_exit(self.process.exit_code)
            self._bury(f"it ended by itself ({how})", now)
        elif self.state is State.STARTING:
            self._look_whether_ready(now)

    def _look_whether_ready(self, now: float) -> None:
        reason = self.process.check_ready()
        if reason is None:
            self._enter(State.READY, now)
            self._served_once = True
            self._say(f"{self.name} is ready")
        elif now - self._since > self.process.spec.ready_within:
            seconds = self.process.spec.ready_within
            self._bury(f"it was not ready after {seconds:.0f} s: {reason}", now)

    def _bury(self, reason: str, now: float) -> None:
        """Clear away what a dead process left, and plan the next start."""
        was_stable = self.state is State.READY and now - self._since >= self._policy.stable_after
        self._deaths = 1 if was_stable else self._deaths + 1
        self.process.kill()
        if not self._served_once:
            raise self.process.failure(f"{reason}.")
        if self._deaths >= self._policy.most_deaths:
            raise self.process.failure(f"{reason}, {self._deaths} times in a row.")
        delay = self._policy.delay(self._deaths)
        self._say(f"{self.name}: {reason}; starting it again in {delay:g} s")
        self._resume_at = now + delay
        self._enter(State.PAUSING, now)

    def _enter(self, state: State, now: float) -> None:
        self.state = state
        self._since = now
