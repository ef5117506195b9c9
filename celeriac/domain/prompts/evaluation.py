"""Renders a template by walking its tree: no code is generated, no Python attributes are read.

Every operation on more than one value or character counts against the limit of work first.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import floordiv, mod, sub, truediv
from typing import Any, ClassVar

from jinja2 import nodes

from celeriac.domain.errors import TemplateRenderError
from celeriac.domain.prompts.filters import FILTERS, TAKE_MISSING, TESTS, compared
from celeriac.domain.prompts.language import LOOP, RANGE, named_arguments
from celeriac.domain.prompts.values import (
    Missing,
    elements,
    fault,
    given,
    inner,
    is_list,
    kind,
    number,
    text_of,
)
from celeriac.domain.prompts.work import MAX_RENDERED_CHARACTERS, WorkLimit
from celeriac.kit.json_types import JsonObject

MAX_LOOP_ROUNDS = 10_000


@dataclass(frozen=True, slots=True)
class _Loop:
    """The variable `loop` within a loop."""

    items: Sequence[Any]
    index0: int
    depth: int

    def attribute(self, name: str) -> Any:
        at, length = self.index0, len(self.items)
        if name == "previtem" and at > 0:
            return self.items[at - 1]
        if name == "nextitem" and at < length - 1:
            return self.items[at + 1]
        known = {
            "index": at + 1,
            "index0": at,
            "revindex": length - at,
            "revindex0": length - at - 1,
            "first": at == 0,
            "last": at == length - 1,
            "length": length,
            "depth": self.depth,
            "depth0": self.depth - 1,
        }
        return known.get(name, Missing(f"{LOOP}.{name}"))


class Evaluation:
    """One rendering of one template, whose work counts against `work`."""

    def __init__(self, variables: JsonObject, work: WorkLimit) -> None:
        self._variables = variables
        self._work = work
        self._local: dict[str, Any] = {}
        self._rounds_left = MAX_LOOP_ROUNDS
        self._depth = 0
        self._pieces: list[str] = []
        self._size = 0

    def text(self, tree: nodes.Template) -> str:
        """Return the rendered text; raises TemplateRenderError and UnavailableError."""
        self._run(tree.body)
        return "".join(self._pieces)

    # statements

    def _run(self, statements: Iterable[nodes.Node]) -> None:
        for statement in statements:
            match statement:
                case nodes.Output():
                    for part in statement.nodes:
                        self._write(self._piece(part))
                case nodes.For():
                    self._run_loop(statement)
                case nodes.If():
                    self._run_if(statement)

    def _piece(self, part: nodes.Expr) -> str:
        if isinstance(part, nodes.TemplateData):
            if self._depth:
                self._work.spend(len(part.data) // 64)
            return part.data
        text = text_of(self._value(part), self._work)
        self._work.spend(len(text) // 64)
        return text

    def _write(self, piece: str) -> None:
        self._size += len(piece)
        if self._size > MAX_RENDERED_CHARACTERS:
            raise TemplateRenderError(
                f"The rendered prompt is over {MAX_RENDERED_CHARACTERS} characters.",
                field="prompt",
            )
        self._work.spend(1)
        self._pieces.append(piece)

    def _run_if(self, statement: nodes.If) -> None:
        for branch in (statement, *statement.elif_):
            if self._holds(branch.test):
                return self._run(branch.body)
        return self._run(statement.else_)

    def _run_loop(self, loop: nodes.For) -> None:
        items = elements(self._value(loop.iter), self._work)
        outer, self._local = self._local, dict(self._local)
        try:
            if loop.test is not None:
                items = [item for item in self._rounds(loop, items) if self._holds(loop.test)]
            self._depth += 1
            for index, _ in enumerate(self._rounds(loop, items)):
                self._local[LOOP] = _Loop(items, index, self._depth)
                self._run(loop.body)
        finally:
            self._local = outer
        self._depth -= 1
        if not items:
            self._run(loop.else_)

    def _rounds(self, loop: nodes.For, items: Sequence[Any]) -> Iterable[Any]:
        """Yield the items, each bound to the loop's names; raises after too many rounds."""
        for item in items:
            self._rounds_left -= 1
            if self._rounds_left < 0:
                raise TemplateRenderError(
                    f"The template loops more than {MAX_LOOP_ROUNDS} rounds; "
                    "shorten its loops or the lists given to it.",
                    field="prompt",
                )
            self._work.spend(1)
            self._bind(loop.target, item)
            yield item

    def _bind(self, target: nodes.Node, item: Any) -> None:
        if isinstance(target, nodes.Name):
            self._local[target.name] = item
            return
        names = [name.name for name in target.iter_child_nodes() if isinstance(name, nodes.Name)]
        if not is_list(item) or len(item) != len(names):
            raise fault(f"a {kind(item)} can't be taken apart into {', '.join(names)}")
        self._local.update(zip(names, item, strict=True))

    # expressions

    def _value(self, node: nodes.Node) -> Any:
        self._work.spend(1)
        return self._EXPRESSIONS[type(node)](self, node)

    def _present(self, node: nodes.Node) -> Any:
        """Return a value, which must exist and be JSON."""
        value = given(self._value(node))
        if isinstance(value, _Loop):
            raise fault(f"{LOOP} itself is not a value; write {LOOP}.index, for example")
        return value

    def _holds(self, node: nodes.Node) -> bool:
        return bool(self._present(node))

    def _name(self, node: nodes.Name) -> Any:
        if node.name in self._local:
            return self._local[node.name]
        if node.name in self._variables:
            return self._variables[node.name]
        return Missing(node.name)

    def _getattr(self, node: nodes.Getattr) -> Any:
        value = self._value(node.node)
        if isinstance(value, _Loop):
            return value.attribute(node.attr)
        return inner(value, node.attr, f"{_named(node.node)}.{node.attr}")

    def _getitem(self, node: nodes.Getitem) -> Any:
        if isinstance(node.arg, nodes.Slice):
            return self._slice(self._present(node.node), node.arg)
        value, key = self._present(node.node), self._present(node.arg)
        shown = f"{key!r}" if isinstance(key, int) or len(str(key)) <= _SHOWN else "…"
        return inner(value, key, f"{_named(node.node)}[{shown}]")

    def _slice(self, value: Any, part: nodes.Slice) -> Any:
        if not isinstance(value, str) and not is_list(value):
            raise fault(f"a {kind(value)} has no parts from one place to another")
        bounds = slice(*(self._bound(each) for each in (part.start, part.stop, part.step)))
        size = len(range(*bounds.indices(len(value))))
        if isinstance(value, str):
            self._work.text(size)
        self._work.spend(1 + size // 8)
        return value[bounds]

    def _bound(self, node: nodes.Expr | None) -> int | None:
        value = None if node is None else self._present(node)
        if value is None or isinstance(value, int):
            return value
        raise fault("a place in a text or a list is a whole number")

    def _list(self, node: nodes.List | nodes.Tuple) -> list[Any]:
        return [self._present(item) for item in node.items]

    def _dict(self, node: nodes.Dict) -> dict[str, Any]:
        made = {}
        for pair in node.items:
            key = self._present(pair.key)
            if not isinstance(key, str):
                raise fault("the keys of a mapping are texts")
            made[key] = self._present(pair.value)
        return made

    def _choice(self, node: nodes.CondExpr) -> Any:
        if self._holds(node.test):
            return self._value(node.expr1)
        if node.expr2 is None:
            return Missing("an inline if without else", quiet=True)
        return self._value(node.expr2)

    def _either(self, node: nodes.And | nodes.Or) -> Any:
        left = self._present(node.left)
        decided = not left if isinstance(node, nodes.And) else bool(left)
        return left if decided else self._present(node.right)

    def _compare(self, node: nodes.Compare) -> bool:
        left = self._present(node.expr)
        for operand in node.ops:
            right = self._present(operand.expr)
            if not compared(operand.op, left, right, self._work):
                return False
            left = right
        return True

    def _add(self, node: nodes.Add) -> Any:
        left, right = self._present(node.left), self._present(node.right)
        if isinstance(left, str) and isinstance(right, str):
            self._work.text(len(left) + len(right))
            return left + right
        return number(_operand(left, "+") + _operand(right, "+"))

    def _arithmetic(self, node: nodes.BinExpr) -> Any:
        left, right = self._present(node.left), self._present(node.right)
        left, right = _operand(left, node.operator), _operand(right, node.operator)
        return number(_ARITHMETIC[node.operator](left, right))

    def _sign(self, node: nodes.UnaryExpr) -> Any:
        value = _operand(self._present(node.node), node.operator)
        return -value if node.operator == "-" else +value

    def _filter(self, node: nodes.Filter | nodes.Test) -> Any:
        """Return the value of a filter or a test."""
        assert node.node is not None  # filter blocks are refused
        function = (TESTS if isinstance(node, nodes.Test) else FILTERS)[node.name]
        find = self._value if node.name in TAKE_MISSING else self._present
        value = find(node.node)
        args = [self._present(each) for each in node.args]
        named = {name: self._present(each) for name, each in named_arguments(node).items()}
        return function(self._work, value, *args, **named)

    def _call(self, node: nodes.Call) -> Any:
        target = node.node
        if isinstance(target, nodes.Name):
            return self._range([self._present(each) for each in node.args])
        assert isinstance(target, nodes.Getattr)
        value = self._present(target.node)
        if not isinstance(value, Mapping):
            raise fault(f"a {kind(value)} has no {target.attr}()")
        self._work.spend(3 * len(value))
        match target.attr:
            case "keys":
                return list(value)
            case "values":
                return list(value.values())
        return [[key, each] for key, each in value.items()]

    def _range(self, bounds: Sequence[Any]) -> list[int]:
        if not all(isinstance(bound, int) for bound in bounds):
            raise fault(f"{RANGE}() takes whole numbers")
        numbers = range(*bounds)
        if not -_FAR <= numbers.start - numbers.stop <= _FAR or len(numbers) > MAX_LOOP_ROUNDS:
            raise TemplateRenderError(
                f"A range in the template has more than {MAX_LOOP_ROUNDS} numbers.",
                field="prompt",
            )
        self._work.spend(len(numbers))
        return list(numbers)

    _EXPRESSIONS: ClassVar[Mapping[type[nodes.Node], Callable[["Evaluation", Any], Any]]] = {
        nodes.Name: _name, nodes.Const: lambda _, node: node.value,
        nodes.Getattr: _getattr, nodes.Getitem: _getitem,
        nodes.List: _list, nodes.Tuple: _list, nodes.Dict: _dict,
        nodes.CondExpr: _choice, nodes.And: _either, nodes.Or: _either,
        nodes.Not: lambda self, node: not self._holds(node.node), nodes.Compare: _compare,
        nodes.Add: _add, nodes.Sub: _arithmetic, nodes.Div: _arithmetic,
        nodes.FloorDiv: _arithmetic, nodes.Mod: _arithmetic, nodes.Neg: _sign, nodes.Pos: _sign,
        nodes.Filter: _filter, nodes.Test: _filter, nodes.Call: _call,
    }  # fmt: skip


_ARITHMETIC = {"-": sub, "/": truediv, "//": floordiv, "%": mod}
_FAR = 2**62
"""`len` accepts no longer ranges."""

_SHOWN = 50


def _operand(value: Any, operator: str) -> int | float:
    if not isinstance(value, int | float):
        raise TemplateRenderError(
            f"The template uses {operator!r} on values that are not numbers.", field="prompt"
        )
    return number(value)


def _named(node: nodes.Node) -> str:
    """Return a short name of an expression for errors."""
    match node:
        case nodes.Name():
            return node.name
        case nodes.Getattr():
            return f"{_named(node.node)}.{node.attr}"
    return "…"
