"""From the fields of a request to a filter of executions."""

from celeriac.api.v1.executions.schemas import Criteria
from celeriac.domain.accounts import Actor
from celeriac.domain.executions.model import ExecutionFilter
from celeriac.domain.executions.states import Status
from celeriac.domain.labels import parse_label
from celeriac.wiring.api import ApiServices

_SAME = (
    "batch_id",
    "origin_id",
    "parent_id",
    "session_id",
    "trigger_type",
    "waiting_for",
    "error_code",
    "created_after",
    "created_before",
)
"""Fields that a filter has, too."""


def selected(
    body: Criteria, actor: Actor, services: ApiServices, *, cancellable: bool = False
) -> ExecutionFilter:
    """Return the filter of a request. Raises NotFoundError for what it names."""
    group = body.failure_group
    return ExecutionFilter(
        ids=body.id,
        statuses=[Status(each) for each in body.status],
        task_id=None if body.task is None else services.tasks.resolve(actor, body.task),
        agent_id=None if body.agent is None else services.agents.resolve(actor, body.agent),
        failure=None if group is None else services.failures.key(actor, group),
        labels=[parse_label(each) for each in body.label],
        without_labels=[parse_label(each) for each in body.without_label],
        queue=getattr(body, "queue", None),
        cancellable=cancellable,
        **{name: getattr(body, name) for name in _SAME},
    )
