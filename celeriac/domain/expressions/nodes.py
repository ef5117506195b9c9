"""The parts of a parsed expression: each can be evaluated, and lists what it refers to."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from celeriac.domain.errors import ExpressionError
from celeriac.domain.expressions.functions import Function
from celeriac.domain.expressions.values import (
    ResultsReference,
    Work,
    add,
    calculate,
    contains,
    equal,
    in_range,
    is_number,
    kind_of,
    less,
)
from celeriac.kit.json_types import JsonValue
from celeriac.kit.text import clip

Path = tuple[str, ...]
"""A name and the fields below it, such as `("steps", "draft", "result")`."""


@dataclass(frozen=True, slots=True)
class Reference:
    """What an expression refers to, and where in its text."""

    path: Path
    offset: int
    optional: bool = False
    """It may be missing: it is the argument of `has`."""


@dataclass(frozen=True, slots=True)
class Scope:
    """The values of names, and the work that may still be done."""

    names: Mapping[str, JsonValue]
    work: Work

    def inside(self, name: str, value: JsonValue) -> "Scope":
        """Return a scope with one more name."""
        return Scope({**self.names, name: value}, self.work)


@dataclass(frozen=True, slots=True)
class Node(ABC):
    """A part of an expression, with its place in the text and its depth."""

    offset: int
    depth: int = field(default=1, kw_only=True)

    returns: ClassVar[str | None] = None

    @property
    def kind(self) -> str | None:
        """The kind of its value if it is always the same: bool, number, string, list, object."""
        return self.returns

    @abstractmethod
    def value(self, scope: Scope) -> JsonValue:
        """Return its value; raises ExpressionError."""

    @abstractmethod
    def references(self, local: frozenset[str]) -> Iterator[Reference]:
        """Yield what it refers to, without the names of macros."""

    def path(self, local: frozenset[str]) -> Path | None:
        """Return its path if it is a name with fields, else None."""
        del local
        return None


@dataclass(frozen=True, slots=True)
class Literal(Node):
    """A number, a text, true, false or null."""

    literal: JsonValue

    @property
    def kind(self) -> str | None:
        """The kind of the value."""
        match self.literal:
            case None:
                return "null"
            case bool():
                return "bool"
            case str():
                return "string"
        return "number"

    def value(self, scope: Scope) -> JsonValue:
        """Return its value; raises ExpressionError."""
        scope.work.spend()
        return self.literal

    def references(self, local: frozenset[str]) -> Iterator[Reference]:
        """Yield what it refers to, without the names of macros."""
        del local
        yield from ()


@dataclass(frozen=True, slots=True)
class Name(Node):
    """A name."""

    name: str

    def value(self, scope: Scope) -> JsonValue:
        """Return its value; raises ExpressionError."""
        scope.work.spend()
        try:
            return scope.names[self.name]
        except KeyError:
            raise ExpressionError(f"{self.name} has no value here") from None

    def references(self, local: frozenset[str]) -> Iterator[Reference]:
        """Yield what it refers to, without the names of macros."""
        if self.name not in local:
            yield Reference((self.name,), self.offset)

    def path(self, local: frozenset[str]) -> Path | None:
        """Return its path if it is a name with fields, else None."""
        return None if self.name in local else (self.name,)


@dataclass(frozen=True, slots=True)
class Field(Node):
    """A field of an object, written as `lead.email` or `lead["email"]`."""

    of: Node
    name: str

    def value(self, scope: Scope) -> JsonValue:
        """Return its value; raises ExpressionError."""
        scope.work.spend()
        return field_of(self.of.value(scope), self.name)

    def is_there(self, scope: Scope) -> bool:
        """Whether the object has the field; raises ExpressionError if there is no object."""
        found = self.of.value(scope)
        if not isinstance(found, dict):
            raise ExpressionError(f"{kind_of(found)} has no fields, such as {shown(self.name)}")
        return self.name in found

    def references(self, local: frozenset[str]) -> Iterator[Reference]:
        """Yield what it refers to, without the names of macros."""
        path = self.path(local)
        if path is None:
            yield from self.of.references(local)
        else:
            yield Reference(path, _begin(self))

    def path(self, local: frozenset[str]) -> Path | None:
        """Return its path if it is a name with fields, else None."""
        path = self.of.path(local)
        return None if path is None else (*path, self.name)


def _begin(node: Node) -> int:
    while isinstance(node, Field):
        node = node.of
    return node.offset


def field_of(value: JsonValue, name: str) -> JsonValue:
    """Return a field of an object; raises ExpressionError."""
    if isinstance(value, dict):
        if name in value:
            return value[name]
        raise ExpressionError(f"there is no field {shown(name)}")
    raise ExpressionError(f"{kind_of(value)} has no fields, such as {shown(name)}")


_SHOWN = 80


def shown(name: str) -> str:
    """Return a name for a message; it may be a calculated one of any length."""
    return repr(clip(name, _SHOWN))


@dataclass(frozen=True, slots=True)
class Parts(Node):
    """A node whose references are those of its parts."""

    parts: tuple[Node, ...]

    def references(self, local: frozenset[str]) -> Iterator[Reference]:
        """Yield what it refers to, without the names of macros."""
        for part in self.parts:
            yield from part.references(local)


@dataclass(frozen=True, slots=True)
class Index(Parts):
    """An element of a list, or a field whose name is calculated."""

    def value(self, scope: Scope) -> JsonValue:
        """Return its value; raises ExpressionError."""
        container, index = (part.value(scope) for part in self.parts)
        scope.work.spend()
        if isinstance(container, dict) and isinstance(index, str):
            return field_of(container, index)
        if isinstance(index, float) and index.is_integer():
            index = int(index)
        if not isinstance(container, list) or isinstance(index, bool) or not isinstance(index, int):
            raise ExpressionError(f"{kind_of(container)} has no element at {kind_of(index)}")
        if not 0 <= index < len(container):
            raise ExpressionError(
                f"there is no element {index} in a list of {len(container)}; the first is 0"
            )
        return container[index]


@dataclass(frozen=True, slots=True)
class ListOf(Parts):
    """A list that is written out."""

    returns: ClassVar[str | None] = "list"

    def value(self, scope: Scope) -> JsonValue:
        """Return its value; raises ExpressionError."""
        scope.work.spend(1 + len(self.parts))
        return [part.value(scope) for part in self.parts]


@dataclass(frozen=True, slots=True)
class ObjectOf(Parts):
    """An object that is written out; its parts are names and values in turn."""

    returns: ClassVar[str | None] = "object"

    def value(self, scope: Scope) -> JsonValue:
        """Return its value; raises ExpressionError."""
        scope.work.spend(1 + len(self.parts))
        made: dict[str, JsonValue] = {}
        for name, part in zip(self.parts[::2], self.parts[1::2], strict=True):
            key = name.value(scope)
            if not isinstance(key, str):
                raise ExpressionError(f"the name of a field must be a text, not {kind_of(key)}")
            if key in made:
                raise ExpressionError(f"the field {shown(key)} is there twice")
            made[key] = part.value(scope)
        return made


@dataclass(frozen=True, slots=True)
class Not(Parts):
    """A negation."""

    returns: ClassVar[str | None] = "bool"

    def value(self, scope: Scope) -> JsonValue:
        """Return its value; raises ExpressionError."""
        scope.work.spend()
        return not truth(self.parts[0].value(scope), "!")


@dataclass(frozen=True, slots=True)
class Negative(Parts):
    """A number with the opposite sign."""

    returns: ClassVar[str | None] = "number"

    def value(self, scope: Scope) -> JsonValue:
        """Return its value; raises ExpressionError."""
        scope.work.spend()
        found = self.parts[0].value(scope)
        if not is_number(found):
            raise ExpressionError(f"- needs a number, not {kind_of(found)}")
        return in_range(-found)


def truth(value: JsonValue, needed_by: str) -> bool:
    """Return true or false; raises ExpressionError for other values."""
    if not isinstance(value, bool):
        raise ExpressionError(
            f"{needed_by} needs true or false, not {kind_of(value)}; write a comparison"
        )
    return value


@dataclass(frozen=True, slots=True)
class Junction(Parts):
    """`a && b` or `a || b`: an error counts only if the other side doesn't decide."""

    sign: str
    returns: ClassVar[str | None] = "bool"

    def value(self, scope: Scope) -> JsonValue:
        """Return its value; raises ExpressionError."""
        deciding = self.sign == "||"
        failed: ExpressionError | None = None
        for part in self.parts:
            try:
                if truth(part.value(scope), self.sign) is deciding:
                    return deciding
            except ExpressionError as error:
                failed = failed or error
                scope.work.spend()  # the limit of work itself is never passed over
        if failed is not None:
            raise failed
        return not deciding


_RELATIONS: Mapping[str, Callable[[Any, Any, Work], bool]] = {
    "==": equal,
    "!=": lambda a, b, work: not equal(a, b, work),
    "<": less,
    "<=": lambda a, b, work: less(a, b, work) or equal(a, b, work),
    ">": lambda a, b, work: less(b, a, work),
    ">=": lambda a, b, work: less(b, a, work) or equal(a, b, work),
    "in": lambda a, b, work: contains(b, a, work),
}


@dataclass(frozen=True, slots=True)
class Relation(Parts):
    """A comparison."""

    sign: str
    returns: ClassVar[str | None] = "bool"

    def value(self, scope: Scope) -> JsonValue:
        """Return its value; raises ExpressionError."""
        scope.work.spend()
        one, other = (part.value(scope) for part in self.parts)
        return _RELATIONS[self.sign](one, other, scope.work)


@dataclass(frozen=True, slots=True)
class Calculation(Parts):
    """A calculation with two values."""

    sign: str

    @property
    def kind(self) -> str | None:
        """The kind of the value, if the sign or a part determines it."""
        if self.sign != "+":
            return "number"
        return self.parts[0].kind or self.parts[1].kind

    def value(self, scope: Scope) -> JsonValue:
        """Return its value; raises ExpressionError."""
        scope.work.spend()
        one, other = (part.value(scope) for part in self.parts)
        if self.sign == "+":
            return add(one, other, scope.work)
        return calculate(self.sign, one, other)


@dataclass(frozen=True, slots=True)
class Choice(Parts):
    """`condition ? a : b`."""

    @property
    def kind(self) -> str | None:
        """The kind of both values, if it is the same."""
        return self.parts[1].kind if self.parts[1].kind == self.parts[2].kind else None

    def value(self, scope: Scope) -> JsonValue:
        """Return its value; raises ExpressionError."""
        scope.work.spend()
        condition, one, other = self.parts
        return (one if truth(condition.value(scope), "?") else other).value(scope)


@dataclass(frozen=True, slots=True)
class Call(Parts):
    """A call of a function; the parts are its arguments, with its object before them."""

    function: Function

    @property
    def kind(self) -> str | None:
        """The kind of what the function returns."""
        return self.function.returns

    def value(self, scope: Scope) -> JsonValue:
        """Return its value; raises ExpressionError."""
        return self.function.call(scope.work, *(part.value(scope) for part in self.parts))


@dataclass(frozen=True, slots=True)
class Has(Node):
    """`has(lead.email)`: whether an object has a field."""

    asked: Field
    returns: ClassVar[str | None] = "bool"

    def value(self, scope: Scope) -> JsonValue:
        """Return its value; raises ExpressionError."""
        scope.work.spend()
        return self.asked.is_there(scope)

    def references(self, local: frozenset[str]) -> Iterator[Reference]:
        """Yield what it refers to, without the names of macros."""
        path = self.asked.path(local)
        if path is None:
            yield from self.asked.references(local)
        else:
            yield Reference(path, _begin(self.asked), optional=True)


@dataclass(frozen=True, slots=True)
class Macro(Node):
    """`list.filter(x, condition)` and its like; of an object, they take its names."""

    of: Node
    macro: str
    name: str
    condition: Node | None
    """Of `map` with three arguments: the elements to take."""
    body: Node

    @property
    def kind(self) -> str | None:
        """The kind of the value."""
        return "list" if self.macro in {"map", "filter"} else "bool"

    def references(self, local: frozenset[str]) -> Iterator[Reference]:
        """Yield what it refers to, without the names of macros."""
        yield from self.of.references(local)
        inside = local | {self.name}
        for part in (self.condition, self.body):
            if part is not None:
                yield from part.references(inside)

    def value(self, scope: Scope) -> JsonValue:
        """Return its value; raises ExpressionError."""
        found = self.of.value(scope)
        if not isinstance(found, list | dict) or isinstance(found, ResultsReference):
            raise ExpressionError(f"{self.macro} needs a list or an object, not {kind_of(found)}")
        scope.work.spend(1 + len(found))
        inner = (scope.inside(self.name, each) for each in found)
        match self.macro:
            case "map":
                return [
                    self.body.value(each)
                    for each in inner
                    if self.condition is None or truth(self.condition.value(each), "map")
                ]
            case "filter":
                return [each.names[self.name] for each in inner if self._holds(each)]
            case "exists_one":
                return sum(self._holds(each) for each in inner) == 1
        return self._decided(inner, deciding=self.macro == "exists")

    def _holds(self, scope: Scope) -> bool:
        return truth(self.body.value(scope), self.macro)

    def _decided(self, scopes: Iterator[Scope], *, deciding: bool) -> bool:
        """Return `deciding` if one element gives it; errors count only if none does."""
        failed: ExpressionError | None = None
        for scope in scopes:
            try:
                if self._holds(scope) is deciding:
                    return deciding
            except ExpressionError as error:
                failed = failed or error
                scope.work.spend()
        if failed is not None:
            raise failed
        return not deciding
