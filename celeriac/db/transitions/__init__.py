"""The only writers of `executions.status`, one file per moment of an execution's life.

Each function is one statement: a guarded UPDATE (its guard comes from `domain.states`) and the
event that records it, so that a change of state and its entry in the log are one atom. A guard
that doesn't hold writes nothing and returns nothing; nobody has to ask first. All times are the
database's.
"""

from celeriac.db.transitions.cancelling import request_cancel
from celeriac.db.transitions.claiming import claim
from celeriac.db.transitions.creating import NewExecutions, create
from celeriac.db.transitions.finishing import finish
from celeriac.db.transitions.rescuing import Rescued, rescue_expired
from celeriac.db.transitions.sending import Sendable, queue, queue_due, resend, unqueue

__all__ = [
    "NewExecutions",
    "Rescued",
    "Sendable",
    "claim",
    "create",
    "finish",
    "queue",
    "queue_due",
    "request_cancel",
    "rescue_expired",
    "resend",
    "unqueue",
]
