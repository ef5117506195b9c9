"""Terms: Python expressions that write CEL."""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from celeriac.domain.expressions.functions import MACROS
from celeriac.domain.expressions.tokens import RESERVED, WORDS

_ATOM: Final = 9
_UNARY: Final = 8
_LEVELS: Final = {
    "*": 7, "/": 7, "%": 7, "+": 6, "-": 6,
    "==": 5, "!=": 5, "<": 5, "<=": 5, ">": 5, ">=": 5, "in": 5, "&&": 4, "||": 3,
}  # fmt: skip


class Term:
    """A part of an expression, such as `page.result.text` or `w.input.score > 70`.

    Fields are attributes or items; a field whose name begins with '_' is an item. `+ - * / %` and
    comparisons work as in Python; `&`, `|` and `~` are and, or and not. A call calls a function of
    CEL: `rows.size()`, `rows.filter(lambda row: row.score > 70)`. In an f-string, a term stands for
    its value in the run.
    """

    __slots__ = ("_level", "_owner", "_text")
    _text: str
    _level: int
    _owner: object

    def __init__(self, text: str, *, level: int = _ATOM, owner: object = None) -> None:
        """`owner` is the workflow that it belongs to."""
        object.__setattr__(self, "_text", text)
        object.__setattr__(self, "_level", level)
        object.__setattr__(self, "_owner", owner)

    def __getattr__(self, name: str) -> "Term":
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]

    def __setattr__(self, name: str, value: object) -> None:
        raise TypeError("a term can't be changed: results are what steps return")

    def __getitem__(self, key: "str | int | Term") -> "Term":
        text = _inner(self, _ATOM)
        if isinstance(key, str) and _is_name(key):
            return Term(f"{text}.{key}", owner=self._owner)
        return Term(f"{text}[{written(key)}]", owner=owner_of(self, key))

    def __call__(self, *arguments: Any) -> "Term":
        """Return a call of the function whose name is the last field."""
        name = self._text.rpartition(".")[2]
        shown = []
        for each in arguments:
            if callable(each) and not isinstance(each, Term):
                shown.append(_lambda(name, each))
            else:
                shown.append(written(each))
        return Term(f"{self._text}({', '.join(shown)})", owner=owner_of(self, *arguments))

    def __add__(self, other: object) -> "Term":
        return _joined(self, "+", other)

    def __radd__(self, other: object) -> "Term":
        return _joined(other, "+", self)

    def __sub__(self, other: object) -> "Term":
        return _joined(self, "-", other)

    def __rsub__(self, other: object) -> "Term":
        return _joined(other, "-", self)

    def __mul__(self, other: object) -> "Term":
        return _joined(self, "*", other)

    def __rmul__(self, other: object) -> "Term":
        return _joined(other, "*", self)

    def __truediv__(self, other: object) -> "Term":
        return _joined(self, "/", other)

    def __rtruediv__(self, other: object) -> "Term":
        return _joined(other, "/", self)

    def __mod__(self, other: object) -> "Term":
        return _joined(self, "%", other)

    def __lt__(self, other: object) -> "Term":
        return _joined(self, "<", other)

    def __le__(self, other: object) -> "Term":
        return _joined(self, "<=", other)

    def __gt__(self, other: object) -> "Term":
        return _joined(self, ">", other)

    def __ge__(self, other: object) -> "Term":
        return _joined(self, ">=", other)

    def __eq__(self, other: object) -> "Term":  # type: ignore[override]
        return _joined(self, "==", other)

    def __ne__(self, other: object) -> "Term":  # type: ignore[override]
        return _joined(self, "!=", other)

    def __and__(self, other: object) -> "Term":
        return _joined(self, "&&", other)

    def __or__(self, other: object) -> "Term":
        return _joined(self, "||", other)

    def __invert__(self) -> "Term":
        return Term(f"!{_inner(self, _UNARY)}", level=_UNARY, owner=self._owner)

    def __neg__(self) -> "Term":
        return Term(f"-{_inner(self, _UNARY)}", level=_UNARY, owner=self._owner)

    def one_of(self, values: object) -> "Term":
        """Return whether the value is in a list."""
        return _joined(self, "in", values)

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        raise TypeError(
            f"{self._text} has no value before the run: use &, | and ~ instead of and, or and not, "
            "and .when(…) instead of if"
        )

    def __iter__(self) -> Any:
        raise TypeError(f"{self._text} has no value before the run: use w.map(…, over=…)")

    def __contains__(self, value: object) -> bool:
        raise TypeError("use .one_of(…) instead of in")

    def __str__(self) -> str:
        return f"${{{{ {self._text} }}}}"

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def __repr__(self) -> str:
        return f"<{self._text}>"


def _is_name(text: str) -> bool:
    return text.isidentifier() and text.isascii() and text not in RESERVED | WORDS


def _lambda(macro: str, function: Callable[..., object]) -> str:
    if macro not in MACROS:
        raise TypeError(f"{macro} takes no function; {', '.join(sorted(MACROS))} do")
    code = getattr(function, "__code__", None)
    name = code.co_varnames[0] if code is not None and code.co_argcount == 1 else None
    if name is None or not _is_name(name):
        raise TypeError(f"{macro} needs a function of one argument: {macro}(lambda each: …)")
    return f"{name}, {written(function(Term(name)))}"


def _joined(one: object, sign: str, other: object) -> Term:
    level = _LEVELS[sign]
    text = f"{_inner(one, level)} {sign} {_inner(other, level + 1)}"
    return Term(text, level=level, owner=owner_of(one, other))


def _inner(value: object, level: int) -> str:
    text = written(value)
    if isinstance(value, Term) and object.__getattribute__(value, "_level") < level:
        return f"({text})"
    if isinstance(value, int | float) and not isinstance(value, bool) and value < 0:
        return f"({text})"
    return text


def owner_of(*values: object) -> object:
    """Return the workflow that terms belong to. Raises ValueError if there are two."""
    owner: object = None
    for value in values:
        each = object.__getattribute__(value, "_owner") if isinstance(value, Term) else None
        if owner is not None and each is not None and each is not owner:
            raise ValueError("an expression can't join steps of two workflows")
        owner = owner or each
    return owner


def written(value: object) -> str:
    """Return a term, or a value of JSON, as an expression. Raises TypeError for other values."""
    if isinstance(value, Term):
        return str(object.__getattribute__(value, "_text"))
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(written, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{written(k)}: {written(v)}" for k, v in value.items()) + "}"
    if value is None or isinstance(value, bool | int | float | str):
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    raise TypeError(f"{type(value).__name__} has no place in an expression; use values of JSON")
