"""Schedules in tests: their services, time that passes, and keepers that are disturbed."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text

from celeriac.db.engine import Connection
from celeriac.domain.accounts import Actor
from celeriac.domain.schedules.model import Fire, FireStatus, Schedule, SkipReason, Timing
from celeriac.domain.schedules.policies import Policies
from celeriac.services.schedules.fire import Clock, FireSchedules
from celeriac.services.schedules.manage import Schedules
from celeriac.services.schedules.start import Start, Starter, Target
from celeriac.services.schedules.stored import NewSchedule
from celeriac.services.schedules.waiting import StartWaiting
from tests.support.core import LIMIT
from tests.support.workflows import Flows

HOURLY = Timing(every_seconds=3_600)


class ScheduleDesk:
    """The services of schedules, and what tests ask of them."""

    def __init__(self, flows: Flows) -> None:
        self.flows = flows
        self.core = flows.core
        self.starter = Starter(self.core.submit, flows.runs)
        self.moment: datetime | None = None
        """The time that schedules see, if it isn't that of the database."""
        database, dispatch = self.core.database, self.core.dispatch
        self.schedules = Schedules(database, self.starter, dispatch, clock=self.clock)
        self.keeper = self.another_keeper()
        self.waiting = self.another_waiting()

    def clock(self, connection: Connection) -> datetime:
        """Return the time that schedules see."""
        if self.moment is not None:
            return self.moment
        found: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
        return found

    def another_keeper(self, clock: Clock | None = None) -> FireSchedules:
        """Return the job of another keeper."""
        core = self.core
        return FireSchedules(core.database, self.starter, core.dispatch, clock=clock or self.clock)

    def another_waiting(self) -> StartWaiting:
        """Return the job of another keeper that starts fires which wait."""
        core, flows = self.core, self.flows
        return StartWaiting(
            core.database, self.starter, core.dispatch, flows.cancel, flows.runs, clock=self.clock
        )

    def add(
        self,
        name: str = "s",
        timing: Timing = HOURLY,
        target: Target | None = None,
        **policies: Any,
    ) -> str:
        """Create a schedule of the core's task, unless another target is given."""
        new = NewSchedule(
            name=name,
            target=target or Target(self.core.task, None, {"n": 1}),
            timing=timing,
            policies=Policies(**policies),
        )
        return str(self.schedules.create(self.core.actor, new).id)

    def get(self, schedule_id: str) -> Schedule:
        """Return a schedule."""
        return self.schedules.get(self.core.actor, schedule_id)

    def pass_time(self, seconds: float) -> None:
        """Let schedules be as old as after so many seconds."""
        self.core.execute(
            "UPDATE schedules SET next_fire_at = next_fire_at - make_interval(secs => :seconds),"
            " due_at = due_at - make_interval(secs => :seconds),"
            " anchor_at = anchor_at - make_interval(secs => :seconds),"
            " updated_at = updated_at - make_interval(secs => :seconds)",
            seconds=seconds,
        )
        # by a detour, because each row is compared with those that were not moved yet
        for moved in (-3_155_760_000.0, 3_155_760_000.0 - seconds):
            self.core.execute(
                "UPDATE schedule_fires"
                " SET scheduled_at = scheduled_at + make_interval(secs => :moved)",
                moved=moved,
            )

    def turn(self) -> int:
        """Take one turn of the keeper."""
        return self.keeper(LIMIT)

    def next(self, hours: int = 1) -> None:
        """Let hours pass, and the keeper take a turn."""
        self.pass_time(3_600 * hours)
        assert self.turn() == 1

    def start_waiting(self) -> int:
        """Let the keeper start fires that wait; return how many it has started."""
        return self.waiting(LIMIT)

    def outcomes(self, schedule_id: str) -> list[tuple[FireStatus, SkipReason | None]]:
        """Return what became of each fire, by their times."""
        return [(each.status, each.reason) for each in self.fires(schedule_id)]

    def now(self) -> datetime:
        """Return the time that schedules see."""
        with self.core.database.autocommit() as connection:
            return self.clock(connection)

    def scalar(self, statement: str) -> Any:
        """Return the value of a statement."""
        with self.core.database.autocommit() as connection:
            return connection.execute(text(statement)).scalar_one()

    def fires(self, schedule_id: str, status: FireStatus | None = None) -> list[Fire]:
        """Return the fires of a schedule by their times."""
        page = self.schedules.fires(self.core.actor, schedule_id, status=status, limit=500)
        return sorted(page.items, key=lambda each: each.scheduled_at)

    def started(self, schedule_id: str) -> list[UUID]:
        """Return the executions that were started."""
        found = self.fires(schedule_id, FireStatus.STARTED)
        return [each.execution_id for each in found if each.execution_id is not None]

    def end_all(self) -> int:
        """Run what there is."""
        return self.flows.drive()


def disturbed(
    desk: ScheduleDesk,
    *,
    before_claim: Callable[[], None] = lambda: None,
    after_store: Callable[[Connection], None] = lambda _: None,
) -> FireSchedules:
    """Return a keeper that is disturbed at two moments of its turn."""

    class Meddling(Starter):
        def prepare(self, actor: Actor, target: Target, *, fresh: bool = False) -> Start:
            start = super().prepare(actor, target, fresh=fresh)

            def store(connection: Connection) -> None:
                start.store(connection)
                after_store(connection)

            before_claim()
            return replace(start, store=store)

    starter = Meddling(desk.core.submit, desk.flows.runs)
    return FireSchedules(desk.core.database, starter, desk.core.dispatch, clock=desk.clock)
