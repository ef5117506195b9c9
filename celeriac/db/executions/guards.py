"""How the statements of this package get their guards from the table of transitions."""

from sqlalchemy import TextClause, text

from celeriac.domain.executions.states import TRANSITIONS, Transition


def with_guards(statement: str, **transitions: Transition) -> TextClause:
    """Fill `{name_from}` and `{name_to}` in `statement` from the table of transitions.

    The statements are constants: they are read as SQL, and are compiled once.
    """
    values: dict[str, str] = {}
    for name, transition in transitions.items():
        sources, target = TRANSITIONS[transition]
        values[f"{name}_from"] = ", ".join(f"'{status}'" for status in sorted(sources))
        values[f"{name}_to"] = f"'{target}'"
    return text(statement.format_map(values))
