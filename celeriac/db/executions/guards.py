"""Fills the guards of this package's statements from the table of transitions."""

from collections.abc import Mapping

from sqlalchemy import TextClause, text

from celeriac.db.executions.ended import ENDED_COLUMNS, MADE_DUE, NOT_COUNTED, ended_parts
from celeriac.db.plans import kept_text
from celeriac.domain.executions.states import TERMINAL, TRANSITIONS, Transition

CELERY_TASK_ID = """CASE WHEN e.queued_at IS NULL THEN e.id ELSE CAST(
            overlay(overlay(CAST(e.id AS text) PLACING '8' FROM 15 FOR 1)
                    PLACING lpad(to_hex((e.event_seq + 1) & 65535), 4, '0') FROM 33 FOR 4)
            AS uuid) END"""
"""The Celery task id of the next message of `e`, whose `queued` event is the next one.

The first message has the execution's id. Later ones have it as a UUIDv8 that ends with the number
of the event: `queries.of_celery_task` finds the execution by its primary key, for ever.
"""


def filled(
    statement: str, parts: Mapping[str, str] | None = None, **transitions: Transition
) -> str:
    """Fill `{name_from}` and `{name_to}` in `statement` from the transitions, and `parts`.

    `{ended}`, `{ended_columns}` and `{made_due}` are known, and `{ended_not_counted}` and
    `{not_counted}` for statements that end only what nothing counts. Raises ValueError for a
    statement that ends executions and leaves out what every end does.
    """
    values = {
        "ended_columns": ENDED_COLUMNS,
        "made_due": MADE_DUE,
        "not_counted": NOT_COUNTED,
        **(parts or {}),
    }
    targets = set()
    for name, transition in transitions.items():
        sources, target = TRANSITIONS[transition]
        values[f"{name}_from"] = ", ".join(f"'{status}'" for status in sorted(sources))
        values[f"{name}_to"] = f"'{target}'"
        if f"{{{name}_to}}" in statement:
            targets.add(target)
    if targets & TERMINAL and not _ends_all(statement):
        raise ValueError(f"a statement ends executions without {{ended}}: {statement}")
    values["ended"] = ended_parts(targets)
    values["ended_not_counted"] = ended_parts(targets, counted=False)
    return statement.format_map(values)


def _ends_all(statement: str) -> bool:
    """Whether a statement does what every end does for the executions that it ends."""
    narrow = "{not_counted}" in statement and "{ended_not_counted}" in statement
    return "{ended_columns}" in statement and (narrow or "{ended}" in statement)


def not_counted(statement: str, *, condition: str) -> str:
    """Return the variant of a statement that ends only executions that nothing counts.

    The guard is added behind `condition`, a text of the WHERE clause of `statement`.
    """
    if statement.count(condition) != 1 or statement.count("{ended}") != 1:
        raise ValueError(f"no variant can be made of the statement: {statement}")
    narrow = statement.replace(condition, condition + "\n      AND {not_counted}")
    return narrow.replace("{ended}", "{ended_not_counted}").replace("{made_due}", "false")


def with_guards(
    statement: str, parts: Mapping[str, str] | None = None, **transitions: Transition
) -> TextClause:
    """Return `filled` as a statement. The statements are constants, compiled once."""
    return text(filled(statement, parts, **transitions))


def kept_with_guards(
    statement: str, parts: Mapping[str, str] | None = None, **transitions: Transition
) -> TextClause:
    """Return what `with_guards` does, with a plan that is kept (`celeriac.db.plans`)."""
    return kept_text(filled(statement, parts, **transitions))
