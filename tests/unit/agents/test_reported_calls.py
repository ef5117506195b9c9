"""A child's model calls: leave, price, charge, and what becomes of those that don't end."""

from decimal import Decimal
from pathlib import Path
from uuid import uuid4

import pytest

from celeriac.agents.child.protocol import AdmitMessage, ReleaseMessage, UsageMessage
from celeriac.agents.child.reported_calls import ReportedCalls
from celeriac.agents.models import Tokens
from celeriac.domain.errors import BudgetSpentError
from celeriac.domain.executions.events import EventType
from celeriac.domain.usage import CallEstimate, Clip, Reservation
from tests.support.run_context import RecordingContext

pytestmark = pytest.mark.anyio

ADMIT = AdmitMessage(id="1", provider="test", model="m", input_tokens=100, output_tokens=50)


class Reserving(RecordingContext):
    """Reserves for each call."""

    async def admit(self, call: CallEstimate) -> Reservation | None:
        return await super().admit(call) or Reservation(uuid4())


def price(provider: str, model: str, tokens: Tokens) -> Decimal | None:
    assert (provider, model) == ("test", "m")
    return Decimal(tokens.input + 2 * tokens.output)


@pytest.fixture
def context(tmp_path: Path) -> Reserving:
    return Reserving(tmp_path)


@pytest.fixture
def calls(context: Reserving) -> ReportedCalls:
    return ReportedCalls(context, price)


def usage(**more: object) -> UsageMessage:
    fields = {"provider": "test", "model": "m", "input_tokens": 10, "output_tokens": 5, **more}
    return UsageMessage.model_validate(fields)


async def test_a_call_is_planned_at_its_most_and_charged_at_what_it_was(
    context: Reserving, calls: ReportedCalls
) -> None:
    assert await calls.admit(ADMIT) == {"type": "admitted", "id": "1"}
    assert context.planned[0].cost == 200

    await calls.charge(usage(admission="1"))
    await calls.close()

    (call,) = context.calls
    assert call.cost == 20
    assert call.booked is None
    assert context.reservations != [None], "what was reserved is settled"


async def test_a_child_is_told_the_limit_that_a_budget_sets(
    context: Reserving, calls: ReportedCalls
) -> None:
    context.clip = Clip(20, "task's budget of 2026-11")
    reply = await calls.admit(ADMIT.model_copy(update={"least_input_tokens": 30}))
    assert reply == {"type": "admitted", "id": "1", "output_tokens": 20}
    assert (context.planned[0].least_tokens, context.planned[0].least_cost) == (46, Decimal(62))

    await calls.charge(usage(admission="1", output_tokens=20, finish_reason="length"))

    ((kind, data),) = context.events
    assert kind is EventType.LOG
    assert "20 tokens: no more is left of the task's budget of 2026-11" in str(data["message"])


async def test_a_child_that_tells_no_least_use_is_not_refused_for_it(
    context: Reserving, calls: ReportedCalls
) -> None:
    await calls.admit(ADMIT)
    assert (context.planned[0].least_tokens, context.planned[0].least_cost) == (0, None)


async def test_a_child_may_tell_what_a_call_cost_or_make_it_without_leave(
    context: Reserving, calls: ReportedCalls
) -> None:
    await calls.charge(usage(cost="0.5"))
    await calls.charge(usage())
    assert [call.cost for call in context.calls] == [Decimal("0.5"), 20]
    assert context.reservations == [None, None]


async def test_a_call_whose_use_nobody_counted_is_booked_as_planned(
    context: Reserving, calls: ReportedCalls
) -> None:
    await calls.admit(ADMIT)
    await calls.charge(usage(admission="1", input_tokens=0, output_tokens=0))
    assert context.calls[0].booked == context.planned[0]
    assert context.calls[0].cost is None


async def test_what_was_under_way_at_the_end_is_booked_as_planned(
    context: Reserving, calls: ReportedCalls
) -> None:
    await calls.admit(ADMIT)
    await calls.close()
    (call,) = context.calls
    assert (call.finish_reason, call.booked) == ("unfinished", context.planned[0])


async def test_a_call_whose_price_cannot_be_said_stays_under_way(context: Reserving) -> None:
    def fail(_provider: str, _model: str, tokens: Tokens) -> Decimal | None:
        if tokens.input == 10:
            raise ArithmeticError("no price")
        return Decimal(1)

    calls = ReportedCalls(context, fail)
    await calls.admit(ADMIT)
    with pytest.raises(ArithmeticError):
        await calls.charge(usage(admission="1"))
    await calls.close()
    assert [call.booked for call in context.calls] == [context.planned[0]]


async def test_leave_for_a_call_that_failed_is_given_back(
    context: Reserving, calls: ReportedCalls
) -> None:
    await calls.admit(ADMIT)
    await calls.release(ReleaseMessage(admission="1"))
    await calls.close()
    assert len(context.released) == 1
    assert not context.calls


async def test_a_refusal_of_leave_ends_the_attempt(
    context: Reserving, calls: ReportedCalls
) -> None:
    context.denial = BudgetSpentError("spent")
    with pytest.raises(BudgetSpentError):
        await calls.admit(ADMIT)
    await calls.close()
    assert not context.calls


@pytest.mark.parametrize(
    ("told", "tokens", "booked"),
    [
        ({}, (10, 5, 0), False),
        ({"input_tokens": "10", "output_tokens": 5.0}, (10, 5, 0), False),
        ({"cached_tokens": 4}, (10, 5, 4), False),
        ({"cached_tokens": 99}, (10, 5, 10), False),
        ({"input_tokens": 0}, (0, 5, 0), False),
        ({"input_tokens": 0, "output_tokens": 0}, (0, 0, 0), True),
        ({"input_tokens": 0, "output_tokens": 0, "cached_tokens": 7}, (0, 0, 0), True),
    ],
)
async def test_odd_usage_of_a_child_is_kept_within_reason(
    context: Reserving,
    calls: ReportedCalls,
    told: dict[str, object],
    tokens: tuple[int, int, int],
    booked: bool,
) -> None:
    await calls.admit(ADMIT)
    await calls.charge(usage(admission="1", **told))

    (call,) = context.calls
    assert (call.input_tokens, call.output_tokens, call.cached_tokens) == tokens
    assert (call.booked is not None) is booked
    assert call.cost is None or call.cost > 0
