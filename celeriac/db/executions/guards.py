"""Fills the guards of this package's statements from the table of transitions."""

from collections.abc import Mapping

from sqlalchemy import TextClause, text

from celeriac.db.executions.ended import ENDED_COLUMNS, ended_parts
from celeriac.domain.executions.states import TERMINAL, TRANSITIONS, Transition


def filled(
    statement: str, parts: Mapping[str, str] | None = None, **transitions: Transition
) -> str:
    """Fill `{name_from}` and `{name_to}` in `statement` from the transitions, and `parts`.

    `{ended}` and `{ended_columns}` are known. Raises ValueError for a statement that ends
    executions and leaves one of them out.
    """
    values = {"ended_columns": ENDED_COLUMNS, **(parts or {})}
    targets = set()
    for name, transition in transitions.items():
        sources, target = TRANSITIONS[transition]
        values[f"{name}_from"] = ", ".join(f"'{status}'" for status in sorted(sources))
        values[f"{name}_to"] = f"'{target}'"
        if f"{{{name}_to}}" in statement:
            targets.add(target)
    if targets & TERMINAL and not ("{ended}" in statement and "{ended_columns}" in statement):
        raise ValueError(f"a statement ends executions without {{ended}}: {statement}")
    return statement.format_map(values | {"ended": ended_parts(targets)})


def with_guards(
    statement: str, parts: Mapping[str, str] | None = None, **transitions: Transition
) -> TextClause:
    """Return `filled` as a statement. The statements are constants, compiled once."""
    return text(filled(statement, parts, **transitions))
