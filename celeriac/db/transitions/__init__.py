"""The only writers of `executions.status`, one file per moment of an execution's life.

Each function is one statement: a guarded UPDATE (its guard comes from `domain.states`) and the
event that records it, so that a change of state and its entry in the log are one atom. A guard
that doesn't hold writes nothing and returns nothing; nobody has to ask first. All times are the
database's.
"""

from celeriac.db.transitions.cancelling import request_cancel
from celeriac.db.transitions.claiming import Turn, claim, claimed
from celeriac.db.transitions.creating import Created, NewExecutions, create
from celeriac.db.transitions.finishing import Finished, finish
from celeriac.db.transitions.parking import (
    expire,
    park,
    resume_answered,
    resume_due,
)
from celeriac.db.transitions.rescuing import Rescued, rescue_expired
from celeriac.db.transitions.sending import Sendable, queue_due, resend, unqueue
from celeriac.db.transitions.settling import settle_session

__all__ = [
    "Created",
    "Finished",
    "NewExecutions",
    "Rescued",
    "Sendable",
    "Turn",
    "claim",
    "claimed",
    "create",
    "expire",
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
