"""From the fields of a request, and those of its saved view, to a filter of executions."""

from datetime import UTC, datetime
from typing import TypeVar

from celeriac.api.v1.executions.narrowing import narrowed, stored_filter
from celeriac.api.v1.executions.schemas import Criteria
from celeriac.domain.accounts import Actor
from celeriac.domain.executions.model import ExecutionFilter
from celeriac.domain.executions.states import Status
from celeriac.domain.labels import parse_label
from celeriac.wiring.api import ApiServices

_READ_HERE = frozenset(
    {"id", "status", "task", "agent", "failure_group", "label", "without_label", "queue", "view"}
)

C = TypeVar("C", bound=Criteria)


def with_view(body: C, actor: Actor, services: ApiServices) -> C:
    """Return the request with the filter of its view instead of the view's name.

    Raises NotFoundError, and InvalidInputError if this release does not know the view's filter, or
    if the request can't narrow it.
    """
    if body.view is None:
        return body
    found = services.views.get(actor, body.view)
    return narrowed(body, found, stored_filter(found), now=datetime.now(UTC))


def selected(
    body: Criteria, actor: Actor, services: ApiServices, *, cancellable: bool = False
) -> ExecutionFilter:
    """Return the filter of a request. Raises NotFoundError for what it names, and see `with_view`.

    Every criterion is in it: one that the filter does not know raises TypeError, because a change
    of many executions must not leave out a condition.
    """
    body = with_view(body, actor, services)
    group = body.failure_group
    criteria = {*Criteria.model_fields, "queue"} & type(body).model_fields.keys()
    same = {name: getattr(body, name) for name in criteria - _READ_HERE}
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
        **same,
    )
