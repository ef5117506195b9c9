"""The ids in the log lines of attempts."""

from celeriac import traces
from celeriac.domain.executions.model import Claim


def trace_id_of(claim: Claim) -> str | None:
    """Return the id of the attempt's trace: every claim has one of its own."""
    return traces.trace_of(claim.lease.execution_id, claim.lease.token)


def correlation_of(claim: Claim) -> dict[str, str]:
    """Return the ids in every log line of an attempt."""
    ids = {
        "request_id": claim.request_id,
        "user_id": str(claim.owner_id),
        "task_id": str(claim.task_id),
        "execution_id": str(claim.lease.execution_id),
        "celery_task_id": claim.celery_task_id,
        "session_id": str(claim.session_id) if claim.session_id else None,
        "trace_id": trace_id_of(claim),
    }
    return {name: value for name, value in ids.items() if value}
