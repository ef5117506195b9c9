"""What a template may be written with: a part of Jinja's language, checked when it is made."""

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
"""Of expressions and blocks within each other."""

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
_ENVIRONMENT = Environment(autoescape=False)  # noqa: S701 - it parses only; prompts are no HTML


def parse(source: str) -> tuple[nodes.Template, int]:
    """Return the tree of a template, and how many words and signs it has.

    Raises TemplateInvalidError naming the line and the cure, for what is no template and for what
    is not part of the language.
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
    """Return the names that a template reads from outside."""
    return frozenset(_read(tree, frozenset()))


def _count_tokens(source: str) -> int:
    """Refuse a long template, and numbers that cost much to read, before its tree is made."""
    number = 0
    for number, (line, token, text) in enumerate(_ENVIRONMENT.lexer.tokeniter(source, None)):
        if number >= MAX_TOKENS:
            _refuse(line, f"it has more than {MAX_TOKENS} words and signs; shorten it")
        if token in ("integer", "float") and len(text) > _MAX_DIGITS:
            _refuse(line, f"a number has more than {_MAX_DIGITS} digits")
    return number


def _check(tree: nodes.Template) -> None:
    line = 1
    for number, (node, depth) in enumerate(_walk(tree)):
        line = node.lineno = node.lineno or line
        if number >= MAX_NODES:
            _refuse(line, f"it has more than {MAX_NODES} parts; shorten it")
        if depth > MAX_DEPTH:
            _refuse(line, f"it is nested too deeply; at most {MAX_DEPTH} parts within each other")
        if not isinstance(node, _SYNTAX):
            _refuse(node.lineno, f"{type(node).__name__.lower()!r} is not part of prompt templates")
        check = _CHECKS.get(type(node))
        if check is not None:
            check(node)


def _walk(tree: nodes.Node) -> Iterator[tuple[nodes.Node, int]]:
    waiting = [(tree, 0)]
    while waiting:
        node, depth = waiting.pop()
        yield node, depth
        inner = [(child, depth + 1) for child in node.iter_child_nodes()]
        waiting.extend(reversed(inner))


def _check_for(node: nodes.For) -> None:
    if node.recursive:
        _refuse(node.lineno, "recursive loops are not part of prompt templates")
    targets = node.target.items if isinstance(node.target, nodes.Tuple) else [node.target]
    for target in targets:
        if not isinstance(target, nodes.Name):
            _refuse(node.lineno, "a loop names one value, or several with commas")
        elif target.name == LOOP:
            _refuse(node.lineno, f"{LOOP!r} is the loop itself; name its value otherwise")


def _check_filter(node: nodes.Filter) -> None:
    function = FILTERS.get(node.name)
    if function is None:
        known = ", ".join(sorted(FILTERS))
        _refuse(node.lineno, f"there is no filter {node.name!r}; there are: {known}")
    else:
        _check_arguments(node, f"the filter {node.name!r}", function)
        _check_bounds(node)


def _check_test(node: nodes.Test) -> None:
    function = TESTS.get(node.name)
    if function is None:
        _refuse(node.lineno, f"there is no test {node.name!r}")
    else:
        _check_arguments(node, f"the test {node.name!r}", function)


def _check_arguments(node: nodes.Filter | nodes.Test, what: str, function: Filter) -> None:
    if node.dyn_args is not None or node.dyn_kwargs is not None:
        _refuse(node.lineno, "arguments can't be given with * or **")
    named = named_arguments(node)
    if len(named) < len(node.kwargs):
        _refuse(node.lineno, f"{what} has an argument twice")
    try:
        SIGNATURES[function].bind(None, None, *node.args, **named)
    except TypeError as error:
        _refuse(node.lineno, f"{what} can't be used so: {error}")


def named_arguments(node: nodes.Filter | nodes.Test) -> dict[str, nodes.Expr]:
    """Return the arguments that a filter or a test is given by name."""
    return {str(keyword.key): keyword.value for keyword in node.kwargs}


def _check_bounds(node: nodes.Filter) -> None:
    """Refuse at once what is written out and would be refused with any values."""
    given = named_arguments(node)
    match node.name:
        case "round":
            precision = _constant(node.args[0] if node.args else given.get("precision"))
            if isinstance(precision, int) and abs(precision) > MAX_PRECISION:
                _refuse(node.lineno, f"the precision of round is at most {MAX_PRECISION}")
        case "trim":
            characters = _constant(node.args[0] if node.args else given.get("chars"))
            if isinstance(characters, str) and len(characters) > MAX_TRIMMED:
                _refuse(node.lineno, f"trim takes at most {MAX_TRIMMED} characters")


def _constant(node: nodes.Node | None) -> Any:
    """Return a literal's value, None for whatever else there is."""
    if isinstance(node, nodes.Neg):
        value = _constant(node.node)
        return -value if isinstance(value, int) else None
    return node.value if isinstance(node, nodes.Const) else None


def _check_getattr(node: nodes.Getattr) -> None:
    if node.attr.startswith("_"):
        _refuse(node.lineno, f"the name {node.attr!r} is private")


def _check_name(node: nodes.Name) -> None:
    if node.name.startswith("__") or node.name == "self":
        _refuse(node.lineno, f"the name {node.name!r} is private")


def _check_const(node: nodes.Const) -> None:
    value = node.value
    if isinstance(value, int) and abs(value) >= _MAX_INTEGER:
        _refuse(node.lineno, "a number is beyond 64 bits")
    if isinstance(value, float) and not abs(value) < float("inf"):
        _refuse(node.lineno, "a number is too large")
    if isinstance(value, str) and not _is_storable(value):
        _refuse(node.lineno, "a text holds what is no character")


def _is_storable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_call(node: nodes.Call) -> None:
    target = node.node
    plain = not node.kwargs and node.dyn_args is None and node.dyn_kwargs is None
    if isinstance(target, nodes.Name) and target.name == RANGE:
        if not plain or not 1 <= len(node.args) <= 3:  # noqa: PLR2004 - start, stop, step
            _refuse(node.lineno, "range() takes one to three numbers")
    elif isinstance(target, nodes.Getattr) and target.attr in METHODS:
        if not plain or node.args:
            _refuse(node.lineno, f"{target.attr}() takes no arguments")
    else:
        _refuse(
            node.lineno, f"only range() and the methods {', '.join(sorted(METHODS))} can be called"
        )


_CHECKS: dict[type[nodes.Node], Any] = {
    nodes.For: _check_for,
    nodes.Filter: _check_filter,
    nodes.Test: _check_test,
    nodes.Getattr: _check_getattr,
    nodes.Name: _check_name,
    nodes.Const: _check_const,
    nodes.Call: _check_call,
}


def _refuse(line: int, reason: str) -> None:
    raise TemplateInvalidError(
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
