"""Options of executions, and the filters that select them."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TypedDict
from uuid import UUID

from celeriac.client.transport import given
from celeriac.domain.budgets import Budget

EXECUTIONS = "task-executions"
"""The path of executions."""


class ExecutionOptions(TypedDict, total=False):
    """Options of a run; each may be left out."""

    priority: str | None
    queue: str | None
    session_id: str | UUID | None
    """An earlier session to continue."""
    fork_session: bool
    """Continue a copy of it."""
    budget: Budget | Mapping[str, Any] | None
    """Instead of the task's: `max_cost`, `max_tokens`, `on_budget`."""
    repository: Mapping[str, str] | None
    """`git`, `ref` or `path` instead of the task's, as far as the task leaves them open."""
    record: bool
    """Save the model traffic as a cassette."""
    cassette_id: str | UUID | None
    """Replay model requests from this cassette."""
    callback_url: str | None
    """URL to which its end is sent, signed."""
    expires_in: float | None
    """Cancel it, with `expired`, if it has not begun after so many seconds."""
    expires_at: datetime | None
    """Cancel it if it has not begun by this time, which has a zone; instead of `expires_in`."""
    labels: Mapping[str, str] | None
    """To find it by."""


class Conditions(TypedDict, total=False):
    """What executions must have; all given values must match."""

    ids: Sequence[str | UUID] | None
    """From 1 to 100."""
    status: str | Sequence[str] | None
    task: str | UUID | None
    agent: str | UUID | None
    """Any of its versions."""
    batch_id: str | UUID | None
    origin_id: str | UUID | None
    """Retries of this execution."""
    parent_id: str | UUID | None
    """Started by this execution."""
    session_id: str | UUID | None
    trigger_type: str | None
    waiting_for: str | None
    """`approval`, `budget` or `provider_limit`."""
    error_code: str | None
    """The code of the last error, such as `agent_failed`."""
    flag: str | None
    """`no_op`, `tools_denied`, `truncated` or `silent`."""
    failure_group: str | UUID | None
    """Failed, of this group of failures."""
    label: Sequence[str] | None
    """`KEY:VALUE`; all of them."""
    without_label: Sequence[str] | None
    """`KEY:VALUE`; none of them."""
    created_after: datetime | None
    """At or after this time, which has a zone."""
    created_before: datetime | None


class ExecutionFilter(Conditions, total=False):
    """Selects the executions that match all given values."""

    view: str | UUID | None
    """A saved view, whose filter must match, too."""


class LiveFilter(ExecutionFilter, total=False):
    """Selects executions that have not ended."""

    queue: str | None
    """In this queue."""


def filter_fields(wanted: ExecutionFilter) -> dict[str, Any]:
    """Return the fields or parameters of a request for `wanted`.

    Raises ValueError for empty `ids`, which must not select everything.
    """
    status, ids = wanted.get("status"), wanted.get("ids")
    if ids is not None and not ids:
        raise ValueError("ids is empty; name at least one, or omit it for all.")
    others = {name: value for name, value in wanted.items() if name not in {"status", "ids"}}
    return given(
        id=None if ids is None else [str(each) for each in ids],
        status=[status] if isinstance(status, str) else status,
        **others,
    )


def options_body(options: ExecutionOptions) -> dict[str, Any]:
    """Return the fields of a request for `options`, without those that are not set."""
    fields = {name: value for name, value in options.items() if value is not False}
    if isinstance(budget := options.get("budget"), Budget):
        fields["budget"] = budget.model_dump(mode="json", exclude_none=True)
    return given(**fields)
