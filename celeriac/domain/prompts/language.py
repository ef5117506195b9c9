"""The syntax of prompt templates: a part of Jinja's, checked when a template is made."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from jinja2 import Environment, TemplateSyntaxError, nodes

from celeriac.domain.errors import TemplateInvalidError
from celeriac.domain.prompts.filters import (
    FILTERS,
    MAX_PRECISION,
    MAX_TRIMMED,
    SIGNATURES,
    TESTS,
    Filter,
)

MAX_NODES = 5_000
MAX_TOKENS = 20_000
MAX_DEPTH = 100
"""Limit of nested expressions and blocks."""

METHODS = frozenset({"items", "keys", "values"})
RANGE = "range"
LOOP = "loop"

_SYNTAX = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.For, nodes.If, nodes.CondExpr,
    nodes.Name, nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Const, nodes.List, nodes.Tuple,
    nodes.Dict, nodes.Pair, nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not,
    nodes.Add, nodes.Sub, nodes.Div, nodes.FloorDiv, nodes.Mod, nodes.Neg, nodes.Pos,
    nodes.Filter, nodes.Test, nodes.Call, nodes.Keyword,
)  # fmt: skip
_MAX_INTEGER = 2**64
_MAX_DIGITS = 25
_SURROGATE = re.compile("[\ud800-\udfff]")
_ENVIRONMENT = Environment(autoescape=False)  # noqa: S701 - it only parses; prompts are not HTML


def parse(source: str) -> tuple[nodes.Template, int]:
    """Return the syntax tree of a template and its number of tokens.

    Raises TemplateInvalidError, naming the line and the cure, for wrong syntax and for syntax that
    is not allowed.
    """
    try:
        size = _count_tokens(source)
        tree = _ENVIRONMENT.parse(source)
        _check(tree)
    except TemplateSyntaxError as error:
        raise TemplateInvalidError(
            f"The prompt template is wrong in line {error.lineno}: {error.message}",
            field="prompt",
            line=error.lineno,
        ) from error
    except RecursionError as error:
        raise TemplateInvalidError(
            "The prompt template is nested too deeply.", field="prompt"
        ) from error
    return tree, size


def variables_of(tree: nodes.Template) -> frozenset[str]:
    """Return the names of the variables that a template reads."""
    return frozenset(_read(tree, frozenset()))


def _count_tokens(source: str) -> int:
    """Refuse long templates and numbers before they are parsed; return the number of tokens."""
    number = 0
    for number, (line, token, text) in enumerate(_ENVIRONMENT.lexer.tokeniter(source, None)):
        if number >= MAX_TOKENS:
            raise _refusal(line, f"it has more than {MAX_TOKENS} words and signs; shorten it")
        if token in ("integer", "float") and len(text) > _MAX_DIGITS:
            raise _refusal(line, f"a number has more than {_MAX_DIGITS} digits")
    return number


def _check(tree: nodes.Template) -> None:
    line = 1
    for number, (node, depth) in enumerate(_walk(tree)):
        line = node.lineno = node.lineno or line
        if number >= MAX_NODES:
            raise _refusal(line, f"it has more than {MAX_NODES} parts; shorten it")
        if depth > MAX_DEPTH:
            raise _refusal(
                line, f"it is nested too deeply; at most {MAX_DEPTH} parts within each other"
            )
        if not isinstance(node, _SYNTAX):
            raise _refusal(
                node.lineno, f"{type(node).__name__.lower()!r} is not part of prompt templates"
            )
        _check_node(node)


def _check_node(node: nodes.Node) -> None:
    match node:
        case nodes.For():
            _check_for(node)
        case nodes.Filter():
            _check_filter(node)
        case nodes.Test():
            _check_test(node)
        case nodes.Getattr():
            if node.attr.startswith("_"):
                raise _refusal(node.lineno, f"the name {node.attr!r} is private")
        case nodes.Name():
            if node.name.startswith("__") or node.name == "self":
                raise _refusal(node.lineno, f"the name {node.name!r} is private")
        case nodes.Const():
            _check_const(node)
        case nodes.Call():
            _check_call(node)


def _walk(tree: nodes.Node) -> Iterator[tuple[nodes.Node, int]]:
    waiting = [(tree, 0)]
    while waiting:
        node, depth = waiting.pop()
        yield node, depth
        inner = [(child, depth + 1) for child in node.iter_child_nodes()]
        waiting.extend(reversed(inner))


def _check_for(node: nodes.For) -> None:
    if node.recursive:
        raise _refusal(node.lineno, "recursive loops are not part of prompt templates")
    targets = node.target.items if isinstance(node.target, nodes.Tuple) else [node.target]
    for target in targets:
        if not isinstance(target, nodes.Name):
            raise _refusal(node.lineno, "a loop names one value, or several with commas")
        if target.name == LOOP:
            raise _refusal(node.lineno, f"{LOOP!r} is the loop itself; name its value otherwise")


def _check_filter(node: nodes.Filter) -> None:
    function = FILTERS.get(node.name)
    if function is None:
        known = ", ".join(sorted(FILTERS))
        raise _refusal(node.lineno, f"there is no filter {node.name!r}; there are: {known}")
    _check_arguments(node, f"the filter {node.name!r}", function)
    _check_bounds(node)


def _check_test(node: nodes.Test) -> None:
    function = TESTS.get(node.name)
    if function is None:
        raise _refusal(node.lineno, f"there is no test {node.name!r}")
    _check_arguments(node, f"the test {node.name!r}", function)


def _check_arguments(node: nodes.Filter | nodes.Test, what: str, function: Filter) -> None:
    if node.dyn_args is not None or node.dyn_kwargs is not None:
        raise _refusal(node.lineno, "arguments can't be given with * or **")
    named = named_arguments(node)
    if len(named) < len(node.kwargs):
        raise _refusal(node.lineno, f"{what} has an argument twice")
    try:
        SIGNATURES[function].bind(None, None, *node.args, **named)
    except TypeError as error:
        raise _refusal(node.lineno, f"{what} can't be used so: {error}") from error


def named_arguments(node: nodes.Filter | nodes.Test) -> dict[str, nodes.Expr]:
    """Return the keyword arguments of a filter or a test."""
    return {str(keyword.key): keyword.value for keyword in node.kwargs}


def _check_bounds(node: nodes.Filter) -> None:
    """Refuse literal arguments that would be refused with every value."""
    given = named_arguments(node)
    match node.name:
        case "round":
            precision = _constant(node.args[0] if node.args else given.get("precision"))
            if isinstance(precision, int) and abs(precision) > MAX_PRECISION:
                raise _refusal(node.lineno, f"the precision of round is at most {MAX_PRECISION}")
        case "trim":
            characters = _constant(node.args[0] if node.args else given.get("chars"))
            if isinstance(characters, str) and len(characters) > MAX_TRIMMED:
                raise _refusal(node.lineno, f"trim takes at most {MAX_TRIMMED} characters")


def _constant(node: nodes.Node | None) -> Any:
    """Return the value of a literal; None for other expressions."""
    if isinstance(node, nodes.Neg):
        value = _constant(node.node)
        return -value if isinstance(value, int) else None
    return node.value if isinstance(node, nodes.Const) else None


def _check_const(node: nodes.Const) -> None:
    value = node.value
    if isinstance(value, int) and abs(value) >= _MAX_INTEGER:
        raise _refusal(node.lineno, "a number is beyond 64 bits")
    if isinstance(value, float) and not abs(value) < float("inf"):
        raise _refusal(node.lineno, "a number is too large")
    if isinstance(value, str) and _SURROGATE.search(value):
        raise _refusal(node.lineno, "a text contains a surrogate, which is not a character")


def _check_call(node: nodes.Call) -> None:
    target = node.node
    plain = not node.kwargs and node.dyn_args is None and node.dyn_kwargs is None
    if isinstance(target, nodes.Name) and target.name == RANGE:
        if not plain or not 1 <= len(node.args) <= 3:  # noqa: PLR2004 - start, stop, step
            raise _refusal(node.lineno, "range() takes one to three numbers")
    elif isinstance(target, nodes.Getattr) and target.attr in METHODS:
        if not plain or node.args:
            raise _refusal(node.lineno, f"{target.attr}() takes no arguments")
    else:
        raise _refusal(
            node.lineno, f"only range() and the methods {', '.join(sorted(METHODS))} can be called"
        )


def _refusal(line: int, reason: str) -> TemplateInvalidError:
    return TemplateInvalidError(
        f"The prompt template is refused in line {line}: {reason}.", field="prompt", line=line
    )


def _read(node: nodes.Node, known: frozenset[str]) -> Iterator[str]:
    match node:
        case nodes.Name():
            if node.name not in known:
                yield node.name
        case nodes.For():
            inside = known | {LOOP, *(name.name for name in node.target.find_all(nodes.Name))}
            if isinstance(node.target, nodes.Name):
                inside |= {node.target.name}
            yield from _read(node.iter, known)
            if node.test is not None:
                yield from _read(node.test, inside - {LOOP} if LOOP not in known else inside)
            yield from _read_all(node.body, inside)
            yield from _read_all(node.else_, known)
        case nodes.Call() if isinstance(node.node, nodes.Name):
            yield from _read_all(node.args, known)
        case _:
            yield from _read_all(node.iter_child_nodes(), known)


def _read_all(found: Iterable[nodes.Node], known: frozenset[str]) -> Iterator[str]:
    for node in found:
        yield from _read(node, known)
