"""Expressions: CEL on JSON values, with bounded work, and templates with them.

An expression names data by roots: `input`, `steps`, `item`, `index`, `result` and `run`. Which of
them have values depends on the place (docs/workflows.md).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from celeriac.domain.errors import ExpressionError
from celeriac.domain.expressions.nodes import Node, Path, Reference, Scope, truth
from celeriac.domain.expressions.syntax import parse
from celeriac.domain.expressions.tokens import ExpressionSyntaxError
from celeriac.domain.expressions.values import Work
from celeriac.kit.json_types import JsonValue
from celeriac.kit.text import clip

__all__ = [
    "MAX_CHARACTERS",
    "Expression",
    "ExpressionError",
    "ExpressionSyntaxError",
    "Path",
    "Reference",
    "Work",
    "compiled",
]

_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Expression:
    """A parsed expression. Immutable; safe to share between threads."""

    text: str
    node: Node
    references: tuple[Reference, ...]
    """What it refers to, in the order of its text."""

    @property
    def path(self) -> Path | None:
        """Its path, such as `("steps", "draft", "result")`, if it is nothing else."""
        return self.node.path(frozenset())

    @property
    def kind(self) -> str | None:
        """The kind of its value if it is known without data: bool, number, string, list, object."""
        return self.node.kind

    def value(self, names: Mapping[str, JsonValue], work: Work | None = None) -> JsonValue:
        """Return its value for the values of its roots.

        `work` limits the work of several evaluations together. Raises ExpressionError, whose
        message names the expression.
        """
        work = work or Work()
        try:
            value = self.node.value(Scope(names, work))
            if self.path is None:
                work.value(value)
        except ExpressionError as error:
            raise ExpressionError(f"{clip(self.text, _SHOWN)}: {error.message}") from error
        return value

    def holds(self, names: Mapping[str, JsonValue], work: Work | None = None) -> bool:
        """Return the value of a condition. Raises ExpressionError, also for other values."""
        try:
            return truth(self.value(names, work), "a condition")
        except ExpressionError as error:
            if error.message.startswith("a condition"):
                raise ExpressionError(f"{clip(self.text, _SHOWN)}: {error.message}") from error
            raise


MAX_CHARACTERS = 2_000
"""Limit of an expression."""

_CACHED_CHARACTERS = 200
"""Longer expressions are parsed each time: each may take 0.2 MB, and users write them."""


def compiled(text: str) -> Expression:
    """Return the parsed expression. Raises ExpressionSyntaxError with the place of the fault."""
    return _cached(text) if len(text) <= _CACHED_CHARACTERS else _parsed(text)


@lru_cache(maxsize=4_096)
def _cached(text: str) -> Expression:
    return _parsed(text)


def _parsed(text: str) -> Expression:
    if len(text) > MAX_CHARACTERS:
        raise ExpressionSyntaxError(
            f"an expression has at most {MAX_CHARACTERS:,} characters; do it in a task instead", 0
        )
    node = parse(text)
    return Expression(text, node, tuple(node.references(frozenset())))
