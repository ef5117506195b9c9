"""The supervisor of `celeriac up`.

Starts programs, restarts them with growing pauses, stops them.
"""

import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from types import FrameType

from celeriac.embedded.errors import EmbeddedError, StopRequestedError
from celeriac.embedded.home import Home
from celeriac.embedded.output import LogFollower, Terminal
from celeriac.embedded.process import ChildRecord, ManagedProcess, describe_exit
from celeriac.embedded.spec import ProcessSpec
from celeriac.kit.words import counted


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
        times = f", {counted(self._deaths, 'time')} in a row" if self._deaths > 1 else ""
        self._say(f"{self.name}: {reason}{times}; starting it again in {delay:g} s")
        if self._deaths == _SHOW_LOG_AFTER:
            self._say(f"{self.name} keeps ending; its log is {self.process.log}")
        self._resume_at = now + delay
        self._enter(State.PAUSING, now)

    def _enter(self, state: State, now: float) -> None:
        self.state = state
        self._since = now


_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_TICK_SECONDS = 0.05
_KILL = 2
"""So many requests to stop mean: at once."""


class Supervisor:
    """Runs processes from specs; knows nothing of what they are.

    Use it in one thread, which must outlive it: the processes die with that thread. Start what
    others need first; within `handling_signals`, SIGINT, SIGTERM and SIGHUP end `start` and `run`
    early, and a second one makes `stop` kill what is left.
    """

    def __init__(
        self,
        home: Home,
        record: ChildRecord,
        terminal: Terminal,
        *,
        policy: RestartPolicy = DEFAULT_POLICY,
    ) -> None:
        self._home = home
        self._record = record
        self._terminal = terminal
        self._policy = policy
        self.on_ready: Callable[[], None] = lambda: None
        """Called by `run` each time a process has been started again and is ready."""
        self._supervised: dict[str, Supervised] = {}
        self._followers: dict[str, LogFollower] = {}
        self._requests = 0

    @property
    def stop_requested(self) -> bool:
        """Whether a signal, or `request_stop`, has asked for the end."""
        return self._requests > 0

    @property
    def processes(self) -> Sequence[ManagedProcess]:
        """All of them, in the order they were started."""
        return tuple(each.process for each in self._supervised.values())

    def process(self, name: str) -> ManagedProcess:
        """Return the process of that name. Raises KeyError."""
        return self._supervised[name].process

    def request_stop(self) -> None:
        """Ask for the end, as a signal does; safe in any thread and in signal handlers."""
        self._requests += 1

    @contextmanager
    def handling_signals(self) -> Iterator[None]:
        """Take SIGINT, SIGTERM and SIGHUP as requests to stop; in the main thread only."""
        previous = {number: signal.getsignal(number) for number in _STOP_SIGNALS}
        for number, handler in previous.items():
            if handler is not signal.SIG_IGN:  # nohup wants to be left alone
                signal.signal(number, self._on_signal)
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def start(self, specs: Iterable[ProcessSpec]) -> None:
        """Start processes one after the other, each when the one before it is ready.

        Raises ServerFailedError where one doesn't become ready at its first try, and
        StopRequestedError. What was started keeps running: call `stop`.
        """
        for spec in specs:
            self._start_one(spec)

    def run(self, until: Callable[[], bool] = lambda: False) -> None:
        """Keep all running until `until()` is true or a stop is requested.

        What ends is started again for ever, with growing pauses. Call `stop` in any case.
        """
        while not self.stop_requested and not until():
            self._tick()
            time.sleep(_TICK_SECONDS)

    def stop(self) -> None:
        """Stop all in reverse order, each within its grace time; a second request kills all."""
        for each in reversed(list(self._supervised.values())):
            self._stop_one(each)
        self._show_output()
        self._supervised.clear()
        self._followers.clear()

    def _start_one(self, spec: ProcessSpec) -> None:
        log = self._home.log_file(spec.name)
        process = ManagedProcess(spec, log, self._record)
        each = Supervised(process, self._policy, self._terminal.say, self._became_ready)
        self._followers[spec.name] = LogFollower(log)
        self._supervised[spec.name] = each
        each.start(time.monotonic())
        while each.state is State.STARTING:
            if self.stop_requested:
                raise StopRequestedError(f"Asked to stop while {spec.name} was starting.")
            self._show_output()
            each.step(time.monotonic())
            time.sleep(_TICK_SECONDS)

    def _became_ready(self) -> None:
        self.on_ready()

    def _stop_one(self, each: Supervised) -> None:
        process = each.process
        if process.pid is not None:
            self._terminal.say(f"stopping {each.name}")
        process.request_stop()
        deadline = time.monotonic() + process.spec.stop_grace
        while process.pid is not None and time.monotonic() < deadline and self._requests < _KILL:
            self._show_output()
            time.sleep(_TICK_SECONDS)
        if process.pid is not None:
            self._terminal.say(f"killing {each.name}")
        process.kill()

    def _tick(self) -> None:
        self._show_output()
        for each in self._supervised.values():
            each.step(time.monotonic())

    def _show_output(self) -> None:
        for name, follower in self._followers.items():
            for line in follower.read_lines():
                self._terminal.show(name, line)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.request_stop()
