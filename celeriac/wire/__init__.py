"""What travels over HTTP in answers: written by the API, read by the client, said once."""

from celeriac.wire.accounts import ApiKey, NewApiKey, User
from celeriac.wire.approvals import Approval, ApprovalLink, LinkedApproval
from celeriac.wire.audit import AuditEntry, AuditFault, AuditVerification
from celeriac.wire.base import Links, Page, Problem, ProblemField, Wire
from celeriac.wire.budgets import (
    Budget,
    BudgetStanding,
    BudgetStandings,
    MadeCall,
    UsageTotal,
    UsageTotals,
)
from celeriac.wire.cassettes import Cassette
from celeriac.wire.catalog import Agent, AgentReference, Task
from celeriac.wire.celery_tasks import CeleryTask, CeleryTaskError
from celeriac.wire.document import Applied, AppliedResource, FieldChange
from celeriac.wire.executions import (
    Accepted,
    AcceptedBatch,
    Event,
    Events,
    Execution,
    ExecutionSummary,
    Progress,
)
from celeriac.wire.health import CeleryHealth, Health, ReadyHealth, Worker
from celeriac.wire.reports import Report, Reports
from celeriac.wire.sessions import File, Files, Session

__all__ = [
    "Accepted",
    "AcceptedBatch",
    "Agent",
    "AgentReference",
    "ApiKey",
    "Applied",
    "AppliedResource",
    "Approval",
    "ApprovalLink",
    "AuditEntry",
    "AuditFault",
    "AuditVerification",
    "Budget",
    "BudgetStanding",
    "BudgetStandings",
    "Cassette",
    "CeleryHealth",
    "CeleryTask",
    "CeleryTaskError",
    "Event",
    "Events",
    "Execution",
    "ExecutionSummary",
    "FieldChange",
    "File",
    "Files",
    "Health",
    "LinkedApproval",
    "Links",
    "MadeCall",
    "NewApiKey",
    "Page",
    "Problem",
    "ProblemField",
    "Progress",
    "ReadyHealth",
    "Report",
    "Reports",
    "Session",
    "Task",
    "UsageTotal",
    "UsageTotals",
    "User",
    "Wire",
    "Worker",
]
