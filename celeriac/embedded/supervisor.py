"""The supervisor of `celeriac up`: starts, restarts and stops processes."""

import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto

from celeriac.embedded.errors import EmbeddedError, StopRequestedError
from celeriac.embedded.home import Home
from celeriac.embedded.output import LogFollower, Terminal
from celeriac.embedded.process import ChildRecord, ManagedProcess, ProcessSpec, describe_exit
from celeriac.kit.backoff import grown
from celeriac.kit.words import counted


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """When a process that died is started again, in seconds.

    The delay doubles from `first_delay` up to `longest_delay`. It starts over once the process was
    ready for `stable_after`, or was ready and ended with exit code 0.
    """

    first_delay: float = 0.5
    longest_delay: float = 60.0
    stable_after: float = 30.0


DEFAULT_POLICY = RestartPolicy()
_SHOW_LOG_AFTER = 4


class State(Enum):
    """What a supervised process is doing."""

    STARTING = auto()
    READY = auto()
    PAUSING = auto()
    """Ended; it will be started again."""


class Supervised:
    """One process under a restart policy. Times are arguments, of a monotonic clock.

    A process that was ready once is started again for ever. One that was never ready is not started
    again: a person must correct the cause. `on_ready` is called each time it becomes ready.
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
        """The name in its spec."""
        return self.process.spec.name

    def start(self, now: float) -> None:
        """Start the process. Raises ServerFailedError where it can't be run."""
        self.process.start()
        self._enter(State.STARTING, now)

    def step(self, now: float) -> None:
        """Check the process, and restart it if that is due.

        Raises ServerFailedError where it ended and was never ready.
        """
        if self.state is State.PAUSING:
            if now >= self._resume_at:
                try:
                    self.start(now)
                except EmbeddedError as error:  # no memory or disk at present, which may pass
                    self._on_end(error.message, now)
        elif self.process.pid is None:
            self._on_end(f"it ended by itself ({describe_exit(self.process.exit_code)})", now)
        elif self.state is State.STARTING:
            self._check_ready(now)

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
        except Exception as error:  # noqa: BLE001 - the other processes must run on
            return f"its check failed: {type(error).__name__}: {error}"

    def _on_end(self, reason: str, now: float) -> None:
        """Kill what is left of the process, and plan the next start."""
        was_ready = self.state is State.READY
        was_stable = was_ready and now - self._since >= self._policy.stable_after
        # it ended on purpose, as a worker does when its code has changed
        was_asked = was_ready and self.process.exit_code == 0
        self._deaths = 1 if was_stable or was_asked else self._deaths + 1
        self.process.kill()
        if not self._served_once:
            raise self.process.failure(f"{reason}.")
        delay = grown(self._policy.first_delay, self._deaths - 1, self._policy.longest_delay)
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
"""The number of requests to stop that kills at once."""


class Supervisor:
    """Runs processes from specs.

    Use it in one thread, which must outlive it: the processes die with that thread. Start processes
    before those that need them. Within `handling_signals`, SIGINT, SIGTERM and SIGHUP end `start`
    and `run` early, and a second one makes `stop` kill what is left.
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
        """Called by `run` each time a restarted process is ready."""
        self._supervised: dict[str, Supervised] = {}
        self._followers: dict[str, LogFollower] = {}
        self._requests = 0

    @property
    def stop_requested(self) -> bool:
        """Whether a signal or `request_stop` has requested the end."""
        return self._requests > 0

    @property
    def processes(self) -> Sequence[ManagedProcess]:
        """All processes, in the order of their start."""
        return tuple(each.process for each in self._supervised.values())

    def process(self, name: str) -> ManagedProcess:
        """Return the process of that name. Raises KeyError."""
        return self._supervised[name].process

    def request_stop(self) -> None:
        """Request the end, as a signal does; safe in any thread and in signal handlers."""
        self._requests += 1

    @contextmanager
    def handling_signals(self) -> Iterator[None]:
        """Handle SIGINT, SIGTERM and SIGHUP as requests to stop; in the main thread only."""
        previous = {number: signal.getsignal(number) for number in _STOP_SIGNALS}
        for number, handler in previous.items():
            if handler is not signal.SIG_IGN:  # started by nohup
                signal.signal(number, lambda *_: self.request_stop())
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def start(self, specs: Iterable[ProcessSpec]) -> None:
        """Start processes in order, each when the one before it is ready.

        Raises ServerFailedError where one doesn't become ready at its first start, and
        StopRequestedError. Processes that were started keep running: call `stop`.
        """
        for spec in specs:
            log = self._home.log_file(spec.name)
            process = ManagedProcess(spec, log, self._record)
            each = Supervised(process, self._policy, self._terminal.say, self._became_ready)
            self._supervised[spec.name] = each
            self._followers[spec.name] = LogFollower(log)
            each.start(time.monotonic())
            while each.state is State.STARTING:
                if self.stop_requested:
                    raise StopRequestedError(f"Asked to stop while {spec.name} was starting.")
                self._show_output()
                each.step(time.monotonic())
                time.sleep(_TICK_SECONDS)

    def run(self, until: Callable[[], bool] = lambda: False) -> None:
        """Keep all processes running until `until()` is true or a stop is requested.

        A process that ends is started again, with growing pauses. Call `stop` afterwards.
        """
        while not self.stop_requested and not until():
            self._show_output()
            for each in self._supervised.values():
                each.step(time.monotonic())
            time.sleep(_TICK_SECONDS)

    def stop(self) -> None:
        """Stop all in reverse order, each within its grace time. A second request kills all."""
        for each in reversed(list(self._supervised.values())):
            self._stop_one(each)
        self._show_output()
        self._supervised.clear()
        self._followers.clear()

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

    def _show_output(self) -> None:
        for name, follower in self._followers.items():
            unshown = self._supervised[name].process.spec.unshown
            for line in follower.read_lines():
                if not any(text in line for text in unshown):
                    self._terminal.show(name, line)
