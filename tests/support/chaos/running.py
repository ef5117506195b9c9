"""A run: the plan carried out, then a wait for everything to end, then the checks."""

import heapq
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from sqlalchemy import text

from celeriac.db.engine import Database
from celeriac.services.retrying import retry_while_unavailable
from tests.support.chaos.driver import Driver, Entry
from tests.support.chaos.faults import Happening, Step, steps_of
from tests.support.chaos.findings import Finding
from tests.support.chaos.plan import Fault, Plan, Round
from tests.support.chaos.system import System, running_system
from tests.support.chaos.verdict import judge

_TICK_SECONDS = 0.02
_AGAIN_SECONDS = 0.2
_MOST_UNFINISHED = 300
_ROUND_SECONDS = 60.0
_SETTLE_SECONDS = 90.0
_STALLED_SECONDS = 45.0
"""When for so long no execution has ended, those that are left never will."""

Say = Callable[[str], None]


@dataclass(slots=True)
class Outcome:
    """What a run came to."""

    plan: Plan
    rounds: int
    """Rounds that were run; fewer than planned where the time was up."""
    seconds: float
    happenings: list[Happening]
    entries: list[Entry]
    findings: list[Finding] = field(default_factory=list)
    lives: list[tuple[float, float]] = field(default_factory=list)
    """When each execution was alive, as far as faults could have met it."""
    counts: dict[str, int] = field(default_factory=dict)
    """Executions by how they ended, attempts, and more of the kind."""


def run(plan: Plan, *, minutes: float, say: Say = lambda _: None) -> Outcome:
    """Carry out `plan`, for at most `minutes` of faults, and check what came of it."""
    with carried_out(plan, minutes=minutes, say=say) as (outcome, system, driver):
        say("checking")
        judge(outcome, system, driver)
        return outcome


@contextmanager
def carried_out(
    plan: Plan, *, minutes: float, say: Say = lambda _: None
) -> Iterator[tuple[Outcome, System, Driver]]:
    """Carry out `plan` and yield what is to be checked, while everything still runs."""
    with running_system(pooler=plan.pooler) as system:
        driver = Driver(system.addresses, system.api_key, str(system.diary))
        try:
            driver.start()
            yield _Run(plan, system, driver, say).run(minutes * 60), system, driver
        finally:
            driver.stop()


class _Run:
    def __init__(self, plan: Plan, system: System, driver: Driver, say: Say) -> None:
        self._plan = plan
        self._system = system
        self._driver = driver
        self._say = say
        self._database = system.database()
        self._happenings: list[Happening] = []
        self._steps: list[tuple[float, int, Step, Happening | None, bool]] = []
        self._count = 0

    def run(self, seconds: float) -> Outcome:
        """Run all rounds that `seconds` allow, and wait for the end of all executions."""
        begun = time.time()
        done = 0
        for each in self._plan.rounds:
            if time.time() - begun > seconds:
                self._say(f"the time is up after {done} of {len(self._plan.rounds)} rounds")
                break
            self._round(each)
            done += 1
        faults_until = time.time()
        self._settle()
        self._database.close()
        return Outcome(
            plan=self._plan,
            rounds=done,
            seconds=faults_until - begun,
            happenings=self._happenings,
            entries=[entry for entry in self._driver.entries if entry.begun],
        )

    def _round(self, each: Round) -> None:
        begun = time.monotonic()
        names = ", ".join(f"{fault.name} {fault.target}" for fault in each.faults) or "no fault"
        self._say(f"round {each.number + 1}/{len(self._plan.rounds)}: {names}")
        self._driver.offer(each.work)
        for fault in each.faults:
            self._at(begun + fault.at, partial(self._begin, fault), None)
        while time.monotonic() < begun + each.seconds or self._steps or self._driver.busy:
            self._tick()
            if not self._steps and time.monotonic() > begun + _ROUND_SECONDS:
                break
        until = time.monotonic() + _ROUND_SECONDS / 2
        while self._unfinished() > _MOST_UNFINISHED and time.monotonic() < until:
            self._tick()

    def _begin(self, fault: Fault) -> None:
        happening = Happening(fault, time.time())
        self._happenings.append(happening)
        now = time.monotonic()
        steps = list(steps_of(happening.fault, self._system, self._driver))
        for number, (after, step) in enumerate(steps, 1):
            self._at(now + after, step, happening, last=number == len(steps))

    def _at(
        self, due: float, step: Step, happening: Happening | None, *, last: bool = False
    ) -> None:
        self._count += 1
        item = (due, self._count, step, happening, last)
        heapq.heappush(self._steps, item)

    def _tick(self) -> None:
        """Do the steps that are due, and start again what has ended by itself."""
        while self._steps and self._steps[0][0] <= time.monotonic():
            _, _, step, happening, last = heapq.heappop(self._steps)
            if step() is False:
                self._at(time.monotonic() + _AGAIN_SECONDS, step, happening, last=last)
            elif happening is not None and last:
                happening.ended = time.time()
        self._system.look_after()
        time.sleep(_TICK_SECONDS)

    def _settle(self) -> None:
        """Wait until all requests are answered and all executions have ended."""
        self._say("waiting for the executions that are left")
        until = time.monotonic() + _SETTLE_SECONDS
        left, changed = -1, time.monotonic()
        while True:
            self._tick()
            now, busy = self._unfinished(), self._driver.busy
            if (now, busy) == (0, 0):
                return
            if now + busy != left:
                left, changed = now + busy, time.monotonic()
            if time.monotonic() > until or time.monotonic() - changed > _STALLED_SECONDS:
                self._say(f"{now} executions have not ended, {busy} requests are not answered")
                return

    def _unfinished(self) -> int:
        query = text(
            "SELECT count(*) FROM executions"
            " WHERE status NOT IN ('completed', 'failed', 'cancelled')"
        )

        def ask() -> int:
            with self._renewed().autocommit() as connection:
                return int(connection.execute(query).scalar_one())

        return retry_while_unavailable(ask, seconds=60)

    def _renewed(self) -> Database:
        """Return a database that leads to the primary of now."""
        if self._database.engine.url.query["host"] != str(self._system.cluster.socket.parent):
            self._database.close()
            self._database = self._system.database()
        return self._database


def to_stderr(line: str) -> None:
    """Show progress."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    sys.stderr.flush()
