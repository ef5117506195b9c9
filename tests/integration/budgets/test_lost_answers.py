"""Budgets when answers of the database get lost, and around midnight: every call counts once."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from celeriac.db import usage
from celeriac.db.engine import Database
from celeriac.db.executions import leases
from celeriac.domain.budget_kinds import BudgetScope, Period
from celeriac.domain.budgets import Budget
from celeriac.domain.errors import DatabaseUnavailableError
from celeriac.domain.usage import CallEstimate, Clip, RateGrant, Reservation
from celeriac.services.budgets.manage import Budgets
from celeriac.services.budgets.provider_limits import ProviderLimits
from celeriac.services.catalog.specs import SpecCache
from tests.support.attempts import AgentAttempt
from tests.support.core import Core
from tests.support.forgetful import ForgetfulDatabase
from tests.support.spending import Spending, admission_of, job_of, made, planned, services_of
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio

BUDGET = Budget(max_tokens=100, max_cost=Decimal(1))
SMALL = Budget(max_tokens=10)
LOST = [(1, 0), (2, 0), (0, 1), (1, 1), (0, 2)]
"""How many answers get lost after the commit, and how many before it."""


@pytest.fixture
def forgetful(core: Core, spending: Spending) -> Iterator[ForgetfulDatabase]:
    """The core's database, which can lose answers; `spending` works on it."""
    database = ForgetfulDatabase(core.database)
    spending.admission = admission_of(database)
    yield database
    database.settle()
    database.close()


def lose(forgetful: ForgetfulDatabase, lost: tuple[int, int]) -> None:
    forgetful.losses, forgetful.late = lost


@pytest.mark.parametrize("lost", LOST)
async def test_a_reservation_is_made_once(
    core: Core, spending: Spending, forgetful: ForgetfulDatabase, lost: tuple[int, int]
) -> None:
    claim = core.running()
    first = await spending.admit(claim, planned(1, "0.001"), budget=BUDGET)  # begins the window
    lose(forgetful, lost)
    reservation = await spending.admit(claim, planned(40, "0.04"), budget=BUDGET)
    forgetful.settle()
    assert spending.window(claim.lease.execution_id)[3] == 41
    await spending.charge(claim, made(25, "0.02"), reservation, budget=BUDGET)
    await spending.charge(claim, made(1, "0"), first, budget=BUDGET)
    assert spending.window(claim.lease.execution_id) == (Decimal("0.02"), 26, 0, 0)
    core.assert_consistent()


@pytest.mark.parametrize("lost", LOST)
async def test_a_call_doesn_t_wait_for_its_own_reservation(
    core: Core, spending: Spending, forgetful: ForgetfulDatabase, lost: tuple[int, int]
) -> None:
    """Larger than the budget, it is admitted as the only call under way."""
    claim = core.running()
    budgets_begun = await spending.admit(claim, planned(0, "0"), budget=SMALL)
    assert budgets_begun is not None
    await spending.charge(claim, made(0, "0"), budgets_begun, budget=SMALL)
    lose(forgetful, lost)
    assert await spending.admit(claim, planned(1_000), budget=SMALL) is not None
    assert spending.window(claim.lease.execution_id)[3] == 1_000


@pytest.mark.parametrize("lost", LOST)
async def test_an_answer_is_not_clipped_by_its_own_reservation(
    core: Core, spending: Spending, forgetful: ForgetfulDatabase, lost: tuple[int, int]
) -> None:
    claim = core.running()
    begun = await spending.admit(claim, planned(0, "0"), budget=BUDGET)
    await spending.charge(claim, made(0, "0"), begun, budget=BUDGET)
    lose(forgetful, lost)
    call = CallEstimate("test", "model", 20, 500, Decimal(0))
    reservation = await spending.admit(claim, call, budget=BUDGET)
    assert reservation is not None
    assert reservation.clip == Clip(80, "execution's budget")


@pytest.mark.parametrize("lost", LOST)
@pytest.mark.parametrize("released", [False, True])
async def test_a_reservation_is_settled_once(
    core: Core,
    spending: Spending,
    forgetful: ForgetfulDatabase,
    lost: tuple[int, int],
    released: bool,
) -> None:
    claim = core.running()
    reservation = await spending.admit(claim, planned(40, "0.04"), budget=BUDGET)
    if released:
        core.pass_time(3600)
        core.rescue()
        assert spending.release() == 1
    lose(forgetful, lost)
    await spending.charge(claim, made(25, "0.02"), reservation, budget=BUDGET)
    forgetful.settle()
    assert spending.window(claim.lease.execution_id) == (Decimal("0.02"), 25, 0, 0)
    assert core.count("budget_reservations") == 0


@pytest.mark.parametrize("lost", LOST)
async def test_a_call_that_came_to_nothing_gives_back_once(
    core: Core, spending: Spending, forgetful: ForgetfulDatabase, lost: tuple[int, int]
) -> None:
    claim = core.running()
    kept = await spending.admit(claim, planned(7), budget=BUDGET)
    reservation = await spending.admit(claim, planned(40), budget=BUDGET)
    assert kept is not None
    assert reservation is not None
    lose(forgetful, lost)
    await spending.admission.release(job_of(claim, BUDGET), reservation)
    forgetful.settle()
    assert spending.window(claim.lease.execution_id)[3] == 7


@pytest.mark.parametrize("lost", LOST)
async def test_a_call_that_was_not_asked_for_is_booked_once(
    core: Core, spending: Spending, forgetful: ForgetfulDatabase, lost: tuple[int, int]
) -> None:
    claim = core.running()
    await spending.charge(claim, made(1, "0.01"), None, budget=BUDGET)
    lose(forgetful, lost)
    await spending.charge(claim, made(2, "0.02"), None, budget=BUDGET)
    await spending.charge(claim, made(3, "0.03"), None, budget=BUDGET)
    forgetful.settle()
    assert spending.window(claim.lease.execution_id) == (Decimal("0.06"), 6, 0, 0)
    core.assert_consistent()


async def test_what_holds_nothing_is_forgotten_after_a_while(
    core: Core, spending: Spending
) -> None:
    claim = core.running()
    await spending.charge(claim, made(1), None, budget=BUDGET)
    assert spending.release() == 0
    assert core.count("budget_reservations") == 1
    core.execute("UPDATE budget_reservations SET released_at = released_at - interval '11 min'")
    assert spending.release() == 0
    assert core.count("budget_reservations") == 0
    assert spending.window(claim.lease.execution_id)[1] == 1


# cancellations


class HeldDatabase(Database):
    """The database of another `Database`; its next units of work wait, and are then lost."""

    def __init__(self, original: Database) -> None:
        super().__init__(original.engine.url.render_as_string(hide_password=False), connections=1)
        self.losses = 0
        self.reached = threading.Event()
        self.released = threading.Event()

    @contextmanager
    def autocommit(self) -> Iterator[Connection]:
        if self.losses > 0:
            self.losses -= 1
            self.reached.set()
            self.released.wait(30)
            raise DatabaseUnavailableError("away")
        with super().autocommit() as connection:
            yield connection


@pytest.fixture
def held(core: Core, spending: Spending) -> Iterator[HeldDatabase]:
    """A database with one connection and one thread; `spending` works on it."""
    database = HeldDatabase(core.database)
    spending.admission = admission_of(database)
    yield database
    database.released.set()
    database.close()


@pytest.mark.parametrize("reserved", [True, False])
@pytest.mark.parametrize("running", [True, False])
async def test_a_call_is_booked_whose_charge_is_cancelled(
    core: Core, spending: Spending, held: HeldDatabase, reserved: bool, running: bool
) -> None:
    """While the first try waits for a thread, or while it runs and fails after that."""
    claim = core.running()
    first = await spending.admit(claim, planned(40, "0.04"), budget=BUDGET)
    reservation = first if reserved else None
    if running:
        held.losses = 1
    else:
        held.threads.submit(held.released.wait, 30)
    charging = asyncio.ensure_future(
        spending.charge(claim, made(25, "0.02"), reservation, budget=BUDGET)
    )
    await asyncio.to_thread(
        wait_until,
        held.reached.is_set if running else lambda: len(held.threads._pending) == 2,
        "the first try runs, or waits for a thread",
    )
    charging.cancel()
    with pytest.raises(asyncio.CancelledError):
        await charging
    held.released.set()
    await asyncio.to_thread(
        wait_until,
        lambda: spending.window(claim.lease.execution_id)[1] == 25,
        "the call is booked",
    )
    core.assert_consistent()


async def test_a_call_is_booked_whose_limit_is_corrected_when_it_is_cancelled(
    core: Core, spending: Spending, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = core.running()
    reservation = await spending.admit(claim, planned(40, "0.04"), budget=BUDGET)
    assert reservation is not None

    async def cancelled(*_: object) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(ProviderLimits, "correct", cancelled)
    taken = replace(reservation, taken=RateGrant((), 0))
    with pytest.raises(asyncio.CancelledError):
        await spending.charge(claim, made(25, "0.02"), taken, budget=BUDGET)
    assert spending.window(claim.lease.execution_id)[1] == 25


# midnight


def a_day_later(core: Core, reservation: Reservation) -> Reservation:
    """Let it be the next day for all budgets; return the reservation as it was given then."""
    core.execute(
        "UPDATE budget_windows SET window_key = to_char(window_key::date - 1, 'YYYY-MM-DD')"
    )
    core.execute(
        "UPDATE budget_reservations SET window_key = to_char(window_key::date - 1, 'YYYY-MM-DD'),"
        " created_at = created_at - interval '1 day'"
    )
    assert reservation.day is not None
    return replace(reservation, day=reservation.day - timedelta(days=1))


def windows(core: Core) -> list[int]:
    query = text("SELECT spent_tokens FROM budget_windows ORDER BY window_key")
    with core.database.autocommit() as connection:
        return list(connection.execute(query).scalars())


@pytest.fixture
def daily(core: Core) -> Budgets:
    """Budgets, one of which bounds what the core's task may use in a day."""
    made_by = Budgets(core.database, SpecCache(core.database), core.live)
    made_by.put(core.actor, BudgetScope.TASK, core.task, Period.DAY, BUDGET)
    return made_by


async def test_a_call_around_midnight_counts_in_one_day(
    core: Core, daily: Budgets, tmp_path: Path
) -> None:
    """Reserved before midnight and stored after it; then the new day's window begins."""
    claim, services = core.running(), services_of(core.database)
    attempt = AgentAttempt(core, claim, tmp_path, services)
    reservation = await attempt.context.admit(planned(30))
    assert reservation is not None
    await attempt.context.charge(made(30), a_day_later(core, reservation))
    (batch,) = attempt.last_batches()
    with core.database.autocommit() as connection:
        leases.store_batch(connection, [batch])
    other = core.running()
    following = AgentAttempt(core, other, tmp_path, services).context
    await following.charge(made(4), await following.admit(planned(5)))
    assert windows(core) == [30, 4], "the first call is counted in both days"


async def test_calls_that_were_not_asked_for_are_totalled_in_the_day_they_are_booked_in(
    core: Core, daily: Budgets, tmp_path: Path
) -> None:
    attempt = AgentAttempt(core, core.running(), tmp_path)
    await attempt.context.charge(made(30))
    (batch,) = attempt.last_batches()
    with core.database.autocommit() as connection:
        today = usage.today(connection)
        assert batch.calls[0].day == today
        batch.calls[0] = replace(batch.calls[0], day=today - timedelta(days=1))
        leases.store_batch(connection, [batch])
        day = connection.execute(text("SELECT day FROM usage_entries")).scalar_one()
    assert day == today - timedelta(days=1)
    assert windows(core) == [30]
