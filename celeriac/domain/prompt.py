"""Prompt templates: a small, safe part of Jinja.

A template can only read plain data. What it may contain is an allow-list of syntax, filters and
methods, so that every construct is bounded: loops by a budget of rounds per rendering, text by
its size, the whole by processor time. There is no `set`, no macro and no inclusion, hence nothing
that grows faster than the loop budget.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError, meta, nodes
from jinja2.filters import FILTERS
from jinja2.runtime import Context, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import pass_context

from celeriac.domain.errors import TemplateInvalidError, TemplateRenderError
from celeriac.kit.jsontypes import JsonObject, JsonValue, dumps

MAX_RENDERED_CHARACTERS = 1_000_000
MAX_LOOP_ROUNDS = 10_000
MAX_SECONDS = 2.0
"""Processor time of the rendering thread, so that a busy machine refuses no honest template."""
MAX_NODES = 5_000

FILTERS_ALLOWED = frozenset(
    "abs capitalize d default first float int items join last length list lower max min reverse "
    "round sort string title tojson trim truncate unique upper wordcount".split()
)
METHODS_ALLOWED = frozenset({"items", "keys", "values"})
_GLOBALS_ALLOWED = frozenset({"range"})
_TESTS_ALLOWED = frozenset(
    "defined undefined none true false boolean number integer float string mapping sequence "
    "iterable even odd divisibleby eq ne lt le gt ge in equalto".split()
)
_SYNTAX_ALLOWED = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.For, nodes.If, nodes.CondExpr,
    nodes.Name, nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Const, nodes.List, nodes.Tuple,
    nodes.Dict, nodes.Pair, nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not,
    nodes.Add, nodes.Sub, nodes.Div, nodes.FloorDiv, nodes.Mod, nodes.Neg, nodes.Pos,
    nodes.Filter, nodes.Test, nodes.Call, nodes.Keyword,
)  # fmt: skip
_ROUNDS = "__celeriac_rounds"


class _Budget:
    """Counts the loop rounds of one rendering, and its time."""

    def __init__(self) -> None:
        self.left = MAX_LOOP_ROUNDS
        self._until = time.thread_time() + MAX_SECONDS

    def check_time(self) -> None:
        if time.thread_time() > self._until:
            raise TemplateRenderError(
                f"The template works for more than {MAX_SECONDS:g} s; shorten its loops or the "
                "values given to it.",
                field="prompt",
            )

    def spend(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self.left -= 1
            if self.left < 0:
                raise TemplateRenderError(
                    f"The template loops more than {MAX_LOOP_ROUNDS} rounds; "
                    "shorten its loops or the lists given to it.",
                    field="prompt",
                )
            self.check_time()
            yield item


@pass_context
def _bounded(context: Context, items: Any) -> Any:
    if isinstance(items, StrictUndefined):
        return items
    return list(context[_ROUNDS].spend(items))


def _join(items: Iterable[Any], separator: str = "") -> str:
    parts = [str(item) for item in items]
    _check_size(sum(map(len, parts)) + len(separator) * len(parts))
    return str(separator).join(parts)


def _check_size(characters: int) -> None:
    if characters > MAX_RENDERED_CHARACTERS:
        raise TemplateRenderError(
            f"A text in the template is over {MAX_RENDERED_CHARACTERS} characters.", field="prompt"
        )


def _range(*bounds: int) -> range:
    numbers = range(*bounds)
    if len(numbers) > MAX_LOOP_ROUNDS:
        raise TemplateRenderError(
            f"A range in the template has more than {MAX_LOOP_ROUNDS} numbers.", field="prompt"
        )
    return numbers


def _timed(filter_: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter that begins only while there is time left."""

    @pass_context
    def call(context: Context, *args: Any, **kwargs: Any) -> Any:
        context[_ROUNDS].check_time()
        return filter_(context, *args, **kwargs)

    return call


def _of_jinja(name: str) -> Callable[..., Any]:
    def call(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        return _PLAIN.call_filter(name, value, args, kwargs, context=context)

    return call


def _ours(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda _, *args, **kwargs: function(*args, **kwargs)


_PLAIN = ImmutableSandboxedEnvironment(undefined=StrictUndefined)
"""Runs Jinja's own filters, some of which want an environment."""


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "%"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        for value in (left, right):
            if isinstance(value, StrictUndefined):
                str(value)  # raises, and names the variable
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        texts = isinstance(left, str) and isinstance(right, str) and operator == "+"
        if not (numbers or texts):
            raise TemplateRenderError(
                f"The template uses {operator!r} on values that are not numbers.", field="prompt"
            )
        if texts:
            _check_size(len(left) + len(right))
        return super().call_binop(context, operator, left, right)


def _environment() -> _Environment:
    environment = _Environment(undefined=StrictUndefined, autoescape=False)
    environment.globals = {"range": _range}
    filters = {name: _of_jinja(name) for name in FILTERS_ALLOWED if name in FILTERS}
    filters |= {"join": _ours(_join), "tojson": _ours(dumps)}
    environment.filters = {name: _timed(call) for name, call in filters.items()}
    environment.filters["bounded"] = _bounded
    environment.tests = {n: t for n, t in environment.tests.items() if n in _TESTS_ALLOWED}
    return environment


_ENVIRONMENT = _environment()
_RENDER_ERRORS = (
    TemplateError, TypeError, ValueError, ArithmeticError, LookupError,
    AssertionError,  # how Jinja's truncate refuses its arguments
)  # fmt: skip


class Prompt:
    """A compiled template; made once per task version and shared between threads."""

    def __init__(self, source: str) -> None:
        """Compile `source`; raises TemplateInvalidError naming the line and the cure."""
        try:
            tree = _ENVIRONMENT.parse(source)
            _check(tree)
            self.variables = frozenset(meta.find_undeclared_variables(tree)) - _GLOBALS_ALLOWED
            _bound_loops(tree)
            code = _ENVIRONMENT.compile(tree)
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
        self._template = _ENVIRONMENT.template_class.from_code(
            _ENVIRONMENT, code, dict(_ENVIRONMENT.globals)
        )

    def render(self, variables: JsonObject) -> str:
        """Return the prompt for `variables`.

        Raises TemplateRenderError for a missing variable, a value that an operation can't take,
        more than 10,000 loop rounds, 1,000,000 characters or two seconds of work.
        """
        pieces: list[str] = []
        size = 0
        budget = _Budget()
        try:
            for piece in self._template.generate({**variables, _ROUNDS: budget}):
                budget.check_time()
                size += len(piece)
                if size > MAX_RENDERED_CHARACTERS:
                    raise TemplateRenderError(
                        f"The rendered prompt is over {MAX_RENDERED_CHARACTERS} characters.",
                        field="prompt",
                    )
                pieces.append(piece)
        except _RENDER_ERRORS as error:
            raise TemplateRenderError(
                f"The prompt template can't be rendered: {error}", field="variables"
            ) from error
        return "".join(pieces)


def _check(tree: nodes.Template) -> None:
    for number, node in enumerate(_walk(tree)):
        if number >= MAX_NODES:
            _refuse(node, f"it has more than {MAX_NODES} parts; shorten it")
        if not isinstance(node, _SYNTAX_ALLOWED):
            _refuse(node, f"{type(node).__name__.lower()!r} is not part of prompt templates")
        if isinstance(node, nodes.For) and node.recursive:
            _refuse(node, "recursive loops are not part of prompt templates")
        if isinstance(node, nodes.Filter) and node.name not in FILTERS_ALLOWED:
            known = ", ".join(sorted(FILTERS_ALLOWED))
            _refuse(node, f"there is no filter {node.name!r}; there are: {known}")
        if isinstance(node, nodes.Test) and node.name not in _TESTS_ALLOWED:
            _refuse(node, f"there is no test {node.name!r}")
        if isinstance(node, nodes.Getattr) and node.attr.startswith("_"):
            _refuse(node, f"the name {node.attr!r} is private")
        if isinstance(node, nodes.Name) and (node.name.startswith("__") or node.name == "self"):
            _refuse(node, f"the name {node.name!r} is private")
        if isinstance(node, nodes.Call):
            _check_call(node)


def _check_call(node: nodes.Call) -> None:
    target = node.node
    if isinstance(target, nodes.Name) and target.name in _GLOBALS_ALLOWED:
        return
    if isinstance(target, nodes.Getattr) and target.attr in METHODS_ALLOWED:
        return
    _refuse(
        node, f"only range() and the methods {', '.join(sorted(METHODS_ALLOWED))} can be called"
    )


def _refuse(node: nodes.Node, reason: str) -> None:
    raise TemplateInvalidError(
        f"The prompt template is refused in line {node.lineno}: {reason}.",
        field="prompt",
        line=node.lineno,
    )


def _walk(node: nodes.Node) -> Iterator[nodes.Node]:
    yield node
    for child in node.iter_child_nodes():
        yield from _walk(child)


def _bound_loops(tree: nodes.Template) -> None:
    for loop in tree.find_all(nodes.For):
        loop.iter = nodes.Filter(loop.iter, "bounded", [], [], None, None, lineno=loop.lineno)


@lru_cache(maxsize=512)
def compiled(source: str) -> Prompt:
    """Return the compiled template of `source`, from a cache."""
    return Prompt(source)


def check_template(source: str, schema: JsonObject) -> None:
    """Accept a task's template or raise TemplateInvalidError.

    Every variable that the template reads must be a property of the schema, where the schema
    lists properties, so that a typing error is found when the task is made and not at night.
    """
    read = compiled(source).variables
    known: JsonValue = schema.get("properties")
    missing = sorted(read - set(known)) if isinstance(known, dict) else []
    if missing:
        raise TemplateInvalidError(
            f"The prompt template reads {', '.join(missing)}, which variables_schema doesn't "
            "have: add it to its properties or correct the name.",
            field="prompt",
            variables=missing,
        )
