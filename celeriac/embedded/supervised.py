"""The life of one supervised process: starting, ready, dead, started again."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from celeriac.embedded.errors import EmbeddedError
from celeriac.embedded.process import ManagedProcess, describe_exit


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """When a process that died is started again, in seconds.

    The delay doubles from `first_delay` up to `longest_delay`, and begins anew once the process
    was ready for `stable_after`, or was ready and ended with exit code 0.
    """

    first_delay: float = 0.5
    longest_delay: float = 60.0
    stable_after: float = 30.0

    def delay(self, deaths: int) -> float:
        """Return the pause after so many deaths in a row (1, 2, …)."""
        return float(min(self.first_delay * 2.0 ** min(deaths - 1, 32), self.longest_delay))


DEFAULT_POLICY = RestartPolicy()
_SHOW_LOG_AFTER = 4


class State(Enum):
    """What a supervised process is doing."""

    STARTING = auto()
    READY = auto()
    PAUSING = auto()
    """Dead; will be started again."""


class Supervised:
    """One process under a restart policy. Times are a monotonic clock's, handed in.

    A process that was ready once is started again for ever. One that never was is not tried
    again: the cause needs a person. `on_ready` is called each time it becomes ready.
    """

    def __init__(
        self,
        process: ManagedProcess,
        policy: RestartPolicy,
        say: Callable[[str], None],
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        self.process = process
        self.state = State.STARTING
        self._policy = policy
        self._say = say
        self._on_ready = on_ready
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
        """Look at it, and do what is due.

        Raises ServerFailedError where it has ended without ever having been ready.
        """
        if self.state is State.PAUSING:
            if now >= self._resume_at:
                self._start_again(now)
        elif self.process.pid is None:
            self._on_end(f"it ended by itself ({describe_exit(self.process.exit_code)})", now)
        elif self.state is State.STARTING:
            self._check_ready(now)

    def _start_again(self, now: float) -> None:
        try:
            self.start(now)
        except EmbeddedError as error:  # no memory or no disk for it now: that may pass
            self._on_end(error.message, now)

    def _check_ready(self, now: float) -> None:
        reason = self._why_not_ready()
        if reason is None:
            self._enter(State.READY, now)
            self._served_once = True
            self._say(f"{self.name} is ready")
            self._on_ready()
        elif now - self._since > self.process.spec.ready_within:
            seconds = self.process.spec.ready_within
            self._on_end(f"it was not ready after {seconds:.0f} s: {reason}", now)

    def _why_not_ready(self) -> str | None:
        check = self.process.spec.ready
        try:
            return check() if check else None
        except Exception as error:  # noqa: BLE001 - a check that fails must not end the others
            return f"its check failed: {type(error).__name__}: {error}"

    def _on_end(self, reason: str, now: float) -> None:
        """Clear away what an ended process left, and plan the next start."""
        was_ready = self.state is State.READY
        was_stable = was_ready and now - self._since >= self._policy.stable_after
        # it was asked to end, as a worker asks itself when its code has changed
        was_asked = was_ready and self.process.exit_code == 0
        self._deaths = 1 if was_stable or was_asked else self._deaths + 1
        self.process.kill()
        if not self._served_once:
            raise self.process.failure(f"{reason}.")
        delay = self._policy.delay(self._deaths)
        times = f", {self._deaths} times in a row" if self._deaths > 1 else ""
        self._say(f"{self.name}: {reason}{times}; starting it again in {delay:g} s")
        if self._deaths == _SHOW_LOG_AFTER:
            self._say(f"{self.name} keeps ending; its log is {self.process.log}")
        self._resume_at = now + delay
        self._enter(State.PAUSING, now)

    def _enter(self, state: State, now: float) -> None:
        self.state = state
        self._since = now
