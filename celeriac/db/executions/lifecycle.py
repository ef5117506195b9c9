"""The only writers of `executions.status`, one file per moment of an execution's life.

Each function is one statement: a guarded UPDATE (its guard comes from `domain.states`) and the
event that records it, so that a change of state and its entry in the log are one atom. A guard
that doesn't hold writes nothing and returns nothing; nobody has to ask first. All times are the
database's.
"""

from celeriac.db.executions.attempt import Finished, NextClaim, claim, find_claim, finish
from celeriac.db.executions.create import (
    Created,
    NewExecutions,
    QueuedMessage,
    create,
    queue_due,
    resend,
    unqueue,
)
from celeriac.db.executions.end import Rescued, request_cancel, rescue_expired
from celeriac.db.executions.park import expire, park, resume_answered, resume_due, settle_session

__all__ = [
    "Created",
    "Finished",
    "NewExecutions",
    "NextClaim",
    "QueuedMessage",
    "Rescued",
    "claim",
    "create",
    "expire",
    "find_claim",
    "finish",
    "park",
    "queue_due",
    "request_cancel",
    "rescue_expired",
    "resend",
    "resume_answered",
    "resume_due",
    "settle_session",
    "unqueue",
]
