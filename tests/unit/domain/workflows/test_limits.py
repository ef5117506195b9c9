"""Which runs the policies of limits cancel."""

from uuid import UUID

import pytest

from celeriac.domain.limit_policies import LimitPolicy
from celeriac.domain.limits import LimitEnd, SlotUser, endings


def user(
    number: int, state: str, policy: LimitPolicy, *, begun: bool = False, cancellable: bool = True
) -> SlotUser:
    return SlotUser(UUID(int=number), state == "held", policy, 1, begun, cancellable)


def ended(held: list[SlotUser], waiting: list[SlotUser]) -> list[tuple[int, LimitEnd, int]]:
    return [(each.id.int, each.why, each.because_of.int) for each in endings(held, waiting)]


@pytest.mark.parametrize("begun", [True, False], ids=["compensated", "cancelled"])
def test_a_run_that_is_compensated_or_being_cancelled_supersedes_nobody(begun: bool) -> None:
    policy = LimitPolicy.KEEP_LATEST
    held = [user(1, "held", policy, begun=True)]
    older, newer = user(2, "waiting", policy), user(3, "waiting", policy)
    other = user(4, "waiting", policy, begun=begun, cancellable=False)
    assert ended(held, [other, older]) == []
    assert ended(held, [other, older, newer]) == [(2, LimitEnd.SUPERSEDED, 3)]


@pytest.mark.parametrize("begun", [True, False], ids=["compensated", "cancelled"])
def test_a_run_that_is_compensated_or_being_cancelled_replaces_nobody(begun: bool) -> None:
    policy = LimitPolicy.CANCEL_RUNNING
    held = [user(1, "held", policy, begun=True), user(2, "held", policy, begun=True)]
    newer = user(3, "waiting", policy)
    other = user(4, "waiting", policy, begun=begun, cancellable=False)
    assert ended(held, [other]) == []
    assert ended(held[1:], [other, newer]) == [(2, LimitEnd.REPLACED, 3)]


def test_a_run_that_is_cancelled_before_it_has_begun_takes_no_place() -> None:
    for policy, ends in (
        (LimitPolicy.CANCEL_NEW, [(3, LimitEnd.LIMIT_REACHED, 2)]),
        (LimitPolicy.KEEP_LATEST, []),
    ):
        cancelled = user(1, "waiting", policy, cancellable=False)
        older, newer = user(2, "waiting", policy), user(3, "waiting", policy)
        assert ended([], [cancelled, older]) == []
        assert ended([], [cancelled, older, newer]) == ends
