"""One answer for all: who asked about a budget goes on once its limits were raised."""

from uuid import UUID

from celeriac.db import answers, approvals, transitions
from celeriac.db.engine import Database
from celeriac.domain.approval import Answer

_BATCH = 50
_NOTHING_MORE = {"cost": "0", "tokens": 0}


def answer_all(database: Database, key_prefix: str, *, by: str, note: str) -> list[UUID]:
    """Approve all open questions about a budget whose keys begin so; return who goes on.

    They allow nothing in addition: that was done already.
    """
    given = Answer(approved=True, value=_NOTHING_MORE, note=note, by=by)
    resumed: list[UUID] = []
    while True:
        with database.transaction() as connection:
            found = approvals.open_about_budget(connection, key_prefix, limit=_BATCH)
            answered = [
                execution_id
                for approval_id, execution_id in found
                if answers.answer(connection, approval_id, given)
            ]
            resumed += transitions.resume_answered(connection, answered)
        if not answered:  # none is left, or others answer them
            return resumed
