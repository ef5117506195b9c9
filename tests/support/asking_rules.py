"""What people, and the keeper in their place, do to questions; for state machines over the core."""

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from celeriac.db import approvals
from celeriac.domain.approvals import OnExpiry
from celeriac.domain.executions.states import Status
from tests.support.core_machine import CoreWorld, a_question

index = st.integers(min_value=0, max_value=10_000)
"""Picks one of what there is."""


class AskingRules(CoreWorld):
    """Attempts ask in their place; questions are answered or run out."""

    @precondition(lambda self: self.asked())
    @rule(pick=index)
    def answer(self, pick: int) -> None:
        asked = self.asked()
        one = asked[pick % len(asked)]
        row = self.rows[one.execution_id]
        done, resumed = self.core.answer_one(one.id, row.id)
        assert done != one.overdue
        left = [each for each in self.asked() if each.execution_id == row.id]
        goes_on = row.status is Status.WAITING and not row.timed and not left
        assert resumed == ([row.id] if goes_on else [])

    @rule()
    def expire(self) -> None:
        overdue = [each for each in self.asked() if each.overdue]
        assert self.core.expire() == len(overdue)
        left = {each.execution_id for each in self.asked()}
        for key in {each.execution_id for each in overdue}:
            row, status = self.rows[key], self.core.status(key)
            fails = any(e.on_expiry is OnExpiry.FAIL for e in overdue if e.execution_id == key)
            if row.status is not Status.WAITING:
                assert status is row.status, "who runs learns of it by itself"
            elif fails:
                assert status is Status.FAILED
            else:
                goes_on = not row.timed and key not in left
                assert status is (Status.PENDING if goes_on else Status.WAITING)

    @precondition(lambda self: self.held or self.ghosts)
    @rule(pick=index, key=st.sampled_from(["mail", "pay"]))
    def ask_in_its_place(self, pick: int, key: str) -> None:
        claims = self.held + self.ghosts
        claim = claims[pick % len(claims)]
        with self.core.database.autocommit() as connection:
            asked = approvals.ask(connection, claim.lease, a_question(key))
        assert (asked is not None) == self.holds(claim)
