"""All changes of `executions.status`, and of `held`, which says why a pending one may not run.

A guarded UPDATE (the guards come from `domain.executions.states`) and the event that records it are
one statement, so a change of status and its event are atomic. If the guard fails, nothing is
written and nothing returned. All times are the database's. A statement that may end executions has
all parts of `ended`; where it could miss rows of others, an earlier statement of the transaction
locks the executions (`hold`).

A part that writes the rows which another part has chosen says `= ANY (ARRAY(SELECT id FROM part))`.
A join alone may be planned as a scan of the whole table: the planner can't know how few rows `part`
has.
"""

from celeriac.db.executions.attempt import Finished, claim, find_claim, find_claims, finish
from celeriac.db.executions.create import (
    NewExecutions,
    StaleSpecError,
    StepItems,
    create,
)
from celeriac.db.executions.eligible import NextClaim, release_due, release_parallel
from celeriac.db.executions.end import (
    Rescued,
    crowd_out,
    end_expired,
    left_behind,
    request_cancel,
    rescue_lost,
)
from celeriac.db.executions.ended import hold
from celeriac.db.executions.groups import (
    Ending,
    EndValues,
    GroupFinished,
    MoreClaims,
    claim_group,
    claim_more,
    end_values,
    finish_group,
    transition_of,
)
from celeriac.db.executions.park import expire, park, resume_answered, resume_due
from celeriac.db.executions.sending import queue_due, resend, unqueue

__all__ = [
    "EndValues",
    "Ending",
    "Finished",
    "GroupFinished",
    "MoreClaims",
    "NewExecutions",
    "NextClaim",
    "Rescued",
    "StaleSpecError",
    "StepItems",
    "claim",
    "claim_group",
    "claim_more",
    "create",
    "crowd_out",
    "end_expired",
    "end_values",
    "expire",
    "find_claim",
    "find_claims",
    "finish",
    "finish_group",
    "hold",
    "left_behind",
    "park",
    "queue_due",
    "release_due",
    "release_parallel",
    "request_cancel",
    "rescue_lost",
    "resend",
    "resume_answered",
    "resume_due",
    "transition_of",
    "unqueue",
]
