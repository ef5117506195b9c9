"""Fills the guards of this package's statements from the table of transitions."""

from collections.abc import Mapping

from sqlalchemy import TextClause, text

from celeriac.domain.executions.states import TRANSITIONS, Transition


def filled(
    statement: str, parts: Mapping[str, str] | None = None, **transitions: Transition
) -> str:
    """Fill `{name_from}` and `{name_to}` in `statement` from the transitions, and `parts`."""
    values: dict[str, str] = dict(parts or {})
    for name, transition in transitions.items():
        sources, target = TRANSITIONS[transition]
        values[f"{name}_from"] = ", ".join(f"'{status}'" for status in sorted(sources))
        values[f"{name}_to"] = f"'{target}'"
    return statement.format_map(values)


def with_guards(
    statement: str, parts: Mapping[str, str] | None = None, **transitions: Transition
) -> TextClause:
    """Return `filled` as a statement. The statements are constants, compiled once."""
    return text(filled(statement, parts, **transitions))
