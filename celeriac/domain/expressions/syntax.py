"""Parses CEL (cel.dev), as far as it works on JSON and can be bounded (docs/workflows.md)."""

from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches

from celeriac.domain.expressions.functions import ABSENT, FUNCTIONS, MACROS, METHODS
from celeriac.domain.expressions.nodes import (
    Calculation,
    Call,
    Choice,
    Field,
    Has,
    Index,
    Junction,
    ListOf,
    Literal,
    Macro,
    Name,
    Negative,
    Node,
    Not,
    ObjectOf,
    Relation,
)
from celeriac.domain.expressions.tokens import (
    RESERVED,
    WORDS,
    ExpressionSyntaxError,
    Kind,
    Token,
    tokens,
)
from celeriac.kit.json_types import INT64
from celeriac.kit.words import counted

MAX_NESTING = 32
"""Levels of an expression, as in other implementations of CEL."""

_RELATIONS = ("==", "!=", "<=", ">=", "<", ">", "in")
_CURES = {
    "=": "==", "&": "&&", "|": "||", "and": "&&", "or": "||", "not": "!", "None": "null",
    "True": "true", "False": "false", "if": "condition ? a : b",
}  # fmt: skip
_CONSTANTS = {"true": True, "false": False, "null": None}


def parse(text: str) -> Node:
    """Return the parsed expression. Raises ExpressionSyntaxError."""
    parser = _Parser(list(tokens(text)))
    node = parser.expression()
    rest = parser.token
    if rest.kind is not Kind.END:
        raise ExpressionSyntaxError(_unexpected(rest), rest.offset)
    return node


def _unexpected(token: Token) -> str:
    if token.kind is Kind.END:
        return "the expression ends too early"
    cure = f"; write {_CURES[token.text]}" if token.text in _CURES else ""
    return f"{token.text} isn't expected here{cure}"


class _Parser:
    def __init__(self, found: Sequence[Token]) -> None:
        self._tokens = found
        self._at = 0
        self._nested = 0

    @property
    def token(self) -> Token:
        return self._tokens[self._at]

    def expression(self) -> Node:
        self._nested += 1
        if self._nested > MAX_NESTING:
            raise self._too_deep(self.token.offset)
        condition = self._junction("||", lambda: self._junction("&&", self._relation))
        mark = self.token
        if self._take("?"):
            one = self._junction("||", lambda: self._junction("&&", self._relation))
            self._need(":")
            condition = self._made(Choice, mark.offset, (condition, one, self.expression()))
        self._nested -= 1
        return condition

    def _made(self, kind: type, offset: int, parts: tuple[Node, ...], *more: object) -> Node:
        depth = 1 + max((part.depth for part in parts), default=0)
        return self._bounded(kind(offset, parts, *more, depth=depth))

    def _bounded(self, node: Node) -> Node:
        # every level costs the evaluation some frames of the stack
        if node.depth > MAX_NESTING * 4:
            raise self._too_deep(node.offset)
        return node

    @staticmethod
    def _too_deep(offset: int) -> ExpressionSyntaxError:
        return ExpressionSyntaxError("the expression is nested too deeply; split it", offset)

    def _junction(self, sign: str, inner: Callable[[], Node]) -> Node:
        offset = self.token.offset
        parts = [inner()]
        while self._take(sign):
            parts.append(inner())
        return parts[0] if len(parts) == 1 else self._made(Junction, offset, tuple(parts), sign)

    def _relation(self) -> Node:
        node = self._sum()
        while (mark := self.token).text in _RELATIONS and mark.kind is not Kind.VALUE:
            self._at += 1
            node = self._made(Relation, mark.offset, (node, self._sum()), mark.text)
        return node

    def _sum(self) -> Node:
        return self._left("+-", self._product)

    def _product(self) -> Node:
        return self._left("*/%", self._unary)

    def _left(self, signs: str, inner: Callable[[], Node]) -> Node:
        node = inner()
        while (mark := self.token).kind is Kind.SIGN and mark.text in signs:
            self._at += 1
            node = self._made(Calculation, mark.offset, (node, inner()), mark.text)
        return node

    def _unary(self) -> Node:
        mark = self.token
        kind = {"!": Not, "-": Negative}.get(mark.text) if mark.kind is Kind.SIGN else None
        if kind is None:
            return self._member()
        self._at += 1
        self._nested += 1
        if self._nested > MAX_NESTING:
            raise self._too_deep(mark.offset)
        inner = (
            self._unary() if self.token.text == mark.text else self._member(signed=kind is Negative)
        )
        self._nested -= 1
        if kind is Negative and isinstance(inner, Literal) and inner.kind == "number":
            if inner.literal == INT64.start:
                raise ExpressionSyntaxError("this integer is beyond 64 bits", mark.offset)
            return Literal(mark.offset, -inner.literal)
        return self._made(kind, mark.offset, (inner,))

    def _member(self, *, signed: bool = False) -> Node:
        node = self._primary()
        if isinstance(node, Literal) and node.literal == INT64.stop and not (
            signed or node.kind != "number" or isinstance(node.literal, float)
        ):  # fmt: skip
            raise ExpressionSyntaxError("this integer is beyond 64 bits", node.offset)
        while True:
            mark = self.token
            if self._take("."):
                node = self._after_dot(node)
            elif self._take("["):
                index = self.expression()
                self._need("]")
                if isinstance(index, Literal) and isinstance(index.literal, str):
                    node = self._bounded(
                        Field(mark.offset, node, index.literal, depth=node.depth + 1)
                    )
                else:
                    node = self._made(Index, mark.offset, (node, index))
            else:
                return node

    def _after_dot(self, of: Node) -> Node:
        name = self.token
        if name.text == "?":
            raise ExpressionSyntaxError("there is no '.?': write has(a.b) ? a.b : c", name.offset)
        if name.kind is not Kind.NAME or name.text in WORDS:
            raise ExpressionSyntaxError(
                f'a name must follow the dot; write ["{name.text}"]'
                if name.kind is Kind.NAME
                else "a name must follow the dot",
                name.offset,
            )
        self._at += 1
        if not self._take("("):
            return self._bounded(Field(name.offset, of, name.text, depth=of.depth + 1))
        if name.text in MACROS:
            return self._macro(name, of)
        arguments = self._until(")")
        if name.text not in METHODS:
            raise _unknown(name, METHODS, MACROS)
        function = METHODS[name.text]
        _check_number(name, function.arguments, len(arguments))
        return self._made(Call, name.offset, (of, *arguments), function)

    def _macro(self, name: Token, of: Node) -> Node:
        arguments = self._until(")")
        most = 3 if name.text == "map" else 2
        _check_number(name, (2, most), len(arguments))
        variable = arguments[0]
        if not isinstance(variable, Name):
            raise ExpressionSyntaxError(
                f"{name.text} needs a new name first: {name.text}(x, …)", variable.offset
            )
        condition = arguments[1] if len(arguments) == most == 3 else None  # noqa: PLR2004 - of map
        body = arguments[-1]
        depth = 1 + max(part.depth for part in (of, *arguments))
        return self._bounded(
            Macro(name.offset, of, name.text, variable.name, condition, body, depth=depth)
        )

    def _until(self, end: str) -> tuple[Node, ...]:
        """Return expressions separated by commas, up to `end`; a last comma is allowed."""
        found: list[Node] = []
        while not self._take(end):
            found.append(self.expression())
            if not self._take(","):
                self._need(end)
                break
        return tuple(found)

    def _primary(self) -> Node:
        token = self.token
        self._at += 1
        if token.kind is Kind.VALUE:
            return Literal(token.offset, token.value)
        if token.kind is Kind.NAME and token.text in _CONSTANTS:
            return Literal(token.offset, _CONSTANTS[token.text])
        if token.kind is Kind.NAME and token.text not in RESERVED | WORDS:
            return self._call(token) if self._take("(") else Name(token.offset, token.text)
        if token.kind is Kind.SIGN and token.text == "(":
            inner = self.expression()
            self._need(")")
            return inner
        if token.kind is Kind.SIGN and token.text == "[":
            return self._made(ListOf, token.offset, self._until("]"))
        if token.kind is Kind.SIGN and token.text == "{":
            return self._object(token)
        self._at -= 1
        raise ExpressionSyntaxError(_unexpected(token), token.offset)

    def _object(self, begin: Token) -> Node:
        parts: list[Node] = []
        while not self._take("}"):
            parts.append(self.expression())
            self._need(":")
            parts.append(self.expression())
            if not self._take(","):
                self._need("}")
                break
        return self._made(ObjectOf, begin.offset, tuple(parts))

    def _call(self, name: Token) -> Node:
        arguments = self._until(")")
        if name.text == "has":
            _check_number(name, (1, 1), len(arguments))
            asked = arguments[0]
            if not isinstance(asked, Field):
                raise ExpressionSyntaxError("has needs a field: has(a.b)", asked.offset)
            return self._bounded(Has(name.offset, asked, depth=asked.depth + 1))
        if name.text not in FUNCTIONS:
            raise _unknown(name, FUNCTIONS, ("has",))
        function = FUNCTIONS[name.text]
        _check_number(name, function.arguments, len(arguments))
        return self._made(Call, name.offset, arguments, function)

    def _take(self, sign: str) -> bool:
        token = self.token
        if token.kind is Kind.SIGN and token.text == sign:
            self._at += 1
            return True
        return False

    def _need(self, sign: str) -> None:
        if not self._take(sign):
            token = self.token
            what = "the end" if token.kind is Kind.END else token.text
            raise ExpressionSyntaxError(f"{sign} is missing before {what}", token.offset)


def _check_number(name: Token, bounds: tuple[int, int], given: int) -> None:
    fewest, most = bounds
    if not fewest <= given <= most:
        wanted = counted(fewest, "argument")
        wanted = wanted if fewest == most else f"{fewest} or {counted(most, 'argument')}"
        raise ExpressionSyntaxError(f"{name.text} takes {wanted}, not {given}", name.offset)


def _unknown(name: Token, *known: Iterable[str]) -> ExpressionSyntaxError:
    names = sorted(each for some in known for each in some)
    cure = ABSENT.get(name.text)
    if cure is None:
        near = get_close_matches(name.text, names, 1)
        cure = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
    return ExpressionSyntaxError(f"there is no function {name.text}: {cure}", name.offset)
