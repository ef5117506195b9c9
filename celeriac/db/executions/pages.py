"""Which executions a filter matches: the conditions of lists, and the queries of their pages."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    FromClause,
    Select,
    Text,
    and_,
    cast,
    func,
    literal_column,
    not_,
    or_,
    select,
    true,
    union_all,
)

from celeriac.db.paging import created, made, matching, newest, written_out
from celeriac.db.schema.approvals import approvals
from celeriac.db.schema.executions import executions as table
from celeriac.db.schema.labels import execution_labels
from celeriac.domain.approvals import ApprovalStatus, QuestionKind
from celeriac.domain.executions.flags import SILENT_SECONDS, Flag
from celeriac.domain.executions.model import ExecutionFilter
from celeriac.domain.executions.states import Status, WaitingFor
from celeriac.domain.labels import Label


def any_row(rows: FromClause, *conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    """Return whether there is a row; looked for each time, never by reading all rows first."""
    # an EXISTS with an OFFSET is not made into a hash of the whole table
    return select(literal_column("1")).select_from(rows).where(*conditions).offset(0).exists()


_ASKS = (approvals.c.execution_id == table.c.id, approvals.c.status == ApprovalStatus.OPEN)
ASKS_IN_PLACE = {
    WaitingFor.APPROVAL: any_row(approvals, *_ASKS, approvals.c.kind != QuestionKind.BUDGET),
    WaitingFor.BUDGET: any_row(approvals, *_ASKS, approvals.c.kind == QuestionKind.BUDGET),
}
"""What a running execution waits for in place: questions to a person."""

ACTIVE_AT = func.greatest(table.c.active_at, table.c.attempt_started_at)
IS_SILENT = and_(
    table.c.status == Status.RUNNING,
    func.now() - ACTIVE_AT > timedelta(seconds=SILENT_SECONDS),
    *(not_(asks) for asks in ASKS_IN_PLACE.values()),
)

_FLAGGED: Mapping[Flag, ColumnElement[bool]] = {
    Flag.NO_OP: table.c.no_op,
    Flag.TOOLS_DENIED: table.c.denied_tool_count > literal_column("0"),
    Flag.TRUNCATED: table.c.truncated,
    Flag.SILENT: IS_SILENT,
}

OPEN = tuple(status for status in Status if not status.terminal)


def page_of(wanted: ExecutionFilter, *, before: UUID | None, limit: int) -> Select[Any]:
    """Return a query for the ids of a page: of several statuses, the newest of each one's page."""
    key = table.c.id
    if wanted.labels:
        return _labelled_page(wanted, before=before, limit=limit)
    wanted_statuses = statuses_of(wanted)
    if len(wanted_statuses) <= 1:
        return newest(filtered(select(key), wanted), key, before=before, limit=limit)
    rare = tuple(status for status in wanted_statuses if status != Status.COMPLETED)
    pages = [_each_status(wanted, rare, before=before, limit=limit)]
    if len(rare) < len(wanted_statuses):
        completed = filtered(select(key), replace(wanted, statuses=(Status.COMPLETED,)))
        pages.append(select(newest(completed, key, before=before, limit=limit).subquery().c.id))
    every = union_all(*pages).subquery()
    return select(every.c.id).order_by(every.c.id.desc()).limit(limit)


def _labelled_page(wanted: ExecutionFilter, *, before: UUID | None, limit: int) -> Select[Any]:
    """Return a query for the ids of a page of executions with labels.

    The rows of the first label are read, the newest first, and each is looked up. What else the
    filter says is checked then: a label is rare as a rule.
    """
    first, *others = dict.fromkeys(wanted.labels)
    rows = execution_labels.alias("labelled")
    its = (rows.c.workspace_id == wanted.workspace_id, rows.c.key == first.key,
           rows.c.value == first.value)  # fmt: skip
    key = rows.c.execution_id
    ids = newest(select(key).where(*its), key, before=before, limit=None)
    ids = made(ids, key, after=wanted.created_after, before=wanted.created_before)
    one = ids.offset(0).subquery("with_label")
    found = filtered(select(table.c.id), replace(wanted, labels=others))
    found = found.where(table.c.id == one.c.execution_id).offset(0)
    query = select(one.c.execution_id).join_from(one, found.correlate(one).lateral(), true())
    return query.order_by(one.c.execution_id.desc()).limit(limit)


def _has(label: Label, workspace: UUID | None) -> ColumnElement[bool]:
    return any_row(
        execution_labels,
        execution_labels.c.workspace_id == workspace,
        execution_labels.c.key == label.key,
        execution_labels.c.value == label.value,
        execution_labels.c.execution_id == table.c.id,
    )


def _each_status(
    wanted: ExecutionFilter, statuses: Sequence[Status], *, before: UUID | None, limit: int
) -> Select[Any]:
    """Return a query for the ids of a page of each of the statuses.

    They are the rows of a list, not parts of the statement: planning takes as long as for one
    status. With all partitions it is most of the time that a list takes.
    """
    key = table.c.id
    listed = (
        func.unnest(cast(list(statuses), ARRAY(Text)))
        .table_valued("status", name="each_status")
        .render_derived()
    )
    query = filtered(select(key), replace(wanted, statuses=statuses))
    query = query.where(table.c.status == listed.c.status)
    page = newest(query, key, before=before, limit=limit).lateral()
    return select(page.c.id).select_from(listed).join(page, true())


_WRITTEN_OUT = ("task_id", "agent_id", "trigger_type")
_BOUND = ("batch_id", "origin_id", "parent_id", "session_id", "error_code")
_OF_ONE_WORKSPACE = (
    "task_id",
    "agent_id",
    "batch_id",
    "origin_id",
    "parent_id",
    "session_id",
    "failure",
)
"""What nearly always has executions of one workspace only."""


def filtered(query: Select[Any], wanted: ExecutionFilter) -> Select[Any]:
    """Return the query with the conditions of the filter."""
    query = matching(query, table, wanted, *_BOUND)
    if wanted.failure is not None:
        query = query.where(
            table.c.task_id == wanted.failure.task_id,
            table.c.error_fingerprint == wanted.failure.fingerprint,
        )
    if any(getattr(wanted, name) is not None for name in _OF_ONE_WORKSPACE):
        # checked, not searched by: all others of the workspace would be read
        if wanted.workspace_id is not None:
            query = query.where(table.c.workspace_id.is_not_distinct_from(wanted.workspace_id))
    elif wanted.workspace_id is not None:
        query = query.where(
            table.c.workspace_id == wanted.workspace_id,
            table.c.max_crashes != literal_column("-1"),  # as the indexes say it
        )
    for name in _WRITTEN_OUT:
        value = getattr(wanted, name)
        if value is not None:
            query = query.where(table.c[name] == written_out(value, table.c[name]))
    if wanted.flag is not None:
        query = query.where(_FLAGGED[wanted.flag])
    if wanted.ids:
        query = query.where(table.c.id.in_(wanted.ids))
    if wanted.queue is not None:
        query = query.where(table.c.queue == wanted.queue)
    query = query.where(
        *(_has(label, wanted.workspace_id) for label in wanted.labels),
        *(~_has(label, wanted.workspace_id) for label in wanted.without_labels),
    )
    query = _standing(query, wanted)
    return created(query, table, after=wanted.created_after, before=wanted.created_before)


def statuses_of(wanted: ExecutionFilter) -> Sequence[Status]:
    """Return the statuses that the filter can match; empty for all."""
    if wanted.statuses:
        return tuple(dict.fromkeys(wanted.statuses))
    if wanted.waiting_for is not None:
        return (Status.WAITING, Status.RUNNING)
    if wanted.flag is Flag.SILENT:
        return (Status.RUNNING,)
    return OPEN if wanted.cancellable else ()


def _standing(query: Select[Any], wanted: ExecutionFilter) -> Select[Any]:
    if wanted.waiting_for is not None:
        waits = table.c.waiting_for == wanted.waiting_for
        asks = ASKS_IN_PLACE.get(wanted.waiting_for)
        if asks is not None:
            waits = or_(waits, and_(table.c.status == Status.RUNNING, asks))
        query = query.where(waits)
    if wanted.cancellable:
        query = query.where(
            table.c.cancel_requested_at.is_(None),
            table.c.status.in_([written_out(status, table.c.status) for status in OPEN]),
        )
    statuses = [written_out(status, table.c.status) for status in statuses_of(wanted)]
    if statuses:
        # written out one by one, so that the planner sees that a partial index fits
        query = query.where(or_(*(table.c.status == status for status in statuses)))
    return query
