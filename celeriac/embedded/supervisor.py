"""Keeps a set of processes running, and stops them in order."""

import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from celeriac.embedded.children import ChildRecord
from celeriac.embedded.errors import StopRequestedError
from celeriac.embedded.home import Home
from celeriac.embedded.logfile import LogFollower
from celeriac.embedded.process import ManagedProcess
from celeriac.embedded.spec import ProcessSpec
from celeriac.embedded.supervised import DEFAULT_POLICY, RestartPolicy, State, Supervised
from celeriac.embedded.terminal import Terminal

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
