"""The filters and tests of templates: those of Jinja, for JSON values, each with a counted cost.

The names of their arguments are those of Jinja.
"""

import inspect
import math
import re
from collections.abc import Callable, Mapping
from operator import ge, gt, le, lt
from typing import Any

from celeriac.domain.prompts.values import (
    Missing,
    elements,
    equal,
    fault,
    given,
    inner,
    is_list,
    key_of,
    kind,
    number,
    ordered,
    text_of,
    weigh,
)
from celeriac.domain.prompts.work import MAX_RENDERED_CHARACTERS, WorkLimit
from celeriac.kit.json_types import dumps

MAX_PRECISION = 15
MAX_TRIMMED = 100
MAX_NUMBER_CHARACTERS = 100
"""Limit of a text that is read as a number."""

Filter = Callable[..., Any]
"""Takes the limit of work, then the value, then its arguments."""

_WORD = re.compile(r"\w+")
_WORD_BEGINNING = re.compile(r"[^-\s({\[<]+")


def _text(work: WorkLimit, value: Any, *, each: int = 64) -> str:
    """Return `value` as text; it counts as one unit of work for `each` characters."""
    text = text_of(value, work)
    work.text(len(text))
    work.spend(len(text) // each)
    return text


def _whole(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(number(given(value)), int):
        raise fault(f"{name} must be a whole number")
    return int(value)


def _abs(_: WorkLimit, value: Any) -> Any:
    return abs(number(value))


def _cased(change: Callable[[str], str]) -> Filter:
    def apply(work: WorkLimit, s: Any) -> str:
        return change(_text(work, s, each=8))

    return apply


def _default(_: WorkLimit, value: Any, default_value: Any = "", boolean: Any = None) -> Any:
    if isinstance(value, Missing) or (given(boolean) and not value):
        return default_value
    return value


def _at(index: int) -> Filter:
    def apply(work: WorkLimit, seq: Any) -> Any:
        if isinstance(seq, Mapping):
            seq = elements(seq, work)
        if not _holds_elements(seq):
            raise fault(f"a {kind(seq)} has no elements")
        return inner(seq, index, "an element of what is empty")

    return apply


def _float(_: WorkLimit, value: Any, default: Any = 0.0) -> Any:
    try:
        return float(_numeral(value))
    except (TypeError, ValueError, OverflowError):
        return default


def _int(_: WorkLimit, value: Any, default: Any = 0, base: Any = 10) -> Any:
    numeral = _numeral(value)
    try:
        if isinstance(numeral, str):
            return number(int(numeral, _whole(base, "base")))
        return number(int(numeral))
    except (TypeError, ValueError, OverflowError):
        pass
    try:
        return number(int(float(numeral)))
    except (TypeError, ValueError, OverflowError):
        return default


def _numeral(value: Any) -> Any:
    """Return a number, or a text that is short enough to be parsed as one."""
    if not isinstance(value, str):
        return number(value) if isinstance(value, int | float) else None
    return value if len(value) <= MAX_NUMBER_CHARACTERS else ""


def _items(work: WorkLimit, value: Any) -> list[Any]:
    if not isinstance(value, Mapping):
        raise fault(f"a {kind(value)} has no items")
    work.spend(3 * len(value))
    return [[key, each] for key, each in value.items()]


def _join(work: WorkLimit, value: Any, d: Any = "") -> str:
    parts, separator = [], text_of(d, work)
    size = 0
    for element in elements(value, work):
        parts.append(text_of(element, work))
        size += len(parts[-1]) + len(separator)
        if size > MAX_RENDERED_CHARACTERS:
            break
    work.text(size)
    return separator.join(parts)


def _length(_: WorkLimit, obj: Any) -> int:
    if not _holds_elements(obj):
        raise fault(f"a {kind(obj)} has no length")
    return len(obj)


def _list(work: WorkLimit, value: Any) -> list[Any]:
    return list(elements(value, work))


def _extreme(choose: Callable[..., Any], missing: str) -> Filter:
    def apply(
        work: WorkLimit, value: Any, case_sensitive: Any = None, attribute: Any = None
    ) -> Any:
        keyed = _keyed(work, value, case_sensitive, attribute)
        return choose(keyed, key=_key, default=(None, Missing(missing)))[1]

    return apply


def _sort(
    work: WorkLimit,
    value: Any,
    reverse: Any = None,
    case_sensitive: Any = None,
    attribute: Any = None,
) -> list[Any]:
    keyed = _keyed(work, value, case_sensitive, attribute)
    return [each for _, each in sorted(keyed, key=_key, reverse=bool(given(reverse)))]


def _keyed(
    work: WorkLimit, value: Any, case_sensitive: Any, attribute: Any
) -> list[tuple[Any, Any]]:
    """Return pairs of sort key and element."""
    find = key_of(given(attribute), work)
    found = elements(value, work)
    keys = ordered([find(element) for element in found], work)
    if not given(case_sensitive):
        keys = [_same_case(key, work) for key in keys]
    return list(zip(keys, found, strict=True))


def _key(pair: tuple[Any, Any]) -> Any:
    return pair[0]


def _same_case(key: Any, work: WorkLimit) -> Any:
    return _text(work, key, each=8).lower() if isinstance(key, str) else key


def _unique(
    work: WorkLimit, value: Any, case_sensitive: Any = None, attribute: Any = None
) -> list[Any]:
    find = key_of(given(attribute), work)
    seen, kept = set(), []
    for element in elements(value, work):
        key = find(element)
        if not given(case_sensitive):
            key = _same_case(key, work)
        if isinstance(key, str):
            work.spend(1 + len(key) // 16)
        elif key is not None:
            number(key)
        if key not in seen:
            seen.add(key)
            kept.append(element)
    return kept


def _reverse(work: WorkLimit, value: Any) -> Any:
    if isinstance(value, str):
        return _text(work, value, each=16)[::-1]
    return list(reversed(elements(value, work)))


def _round(_: WorkLimit, value: Any, precision: Any = 0, method: Any = "common") -> Any:
    digits = _whole(precision, "the precision of round")
    if abs(digits) > MAX_PRECISION:
        raise fault(f"the precision of round is at most {MAX_PRECISION}")
    if method not in ("common", "ceil", "floor"):
        raise fault("the method of round is common, ceil or floor")
    value = number(value)
    if method == "common":
        return round(value, digits)
    whole = math.ceil if method == "ceil" else math.floor
    return number(whole(value * 10.0**digits) / 10.0**digits)


def _string(work: WorkLimit, object: Any) -> str:  # noqa: A002 - the name that Jinja has
    return text_of(object, work)


def _title(work: WorkLimit, s: Any) -> str:
    text = _text(work, s, each=1)
    return _WORD_BEGINNING.sub(lambda word: word[0][0].upper() + word[0][1:].lower(), text)


def _tojson(work: WorkLimit, value: Any) -> str:
    weigh(value, work)
    return dumps(value)


def _trim(work: WorkLimit, value: Any, chars: Any = None) -> str:
    text = _text(work, value)
    if chars is None:
        return text.strip()
    if not isinstance(chars, str) or len(chars) > MAX_TRIMMED:
        raise fault(f"trim takes a text of at most {MAX_TRIMMED} characters")
    work.spend(len(text) * len(chars) // 64)
    return text.strip(chars)


def _truncate(  # noqa: PLR0917 - the arguments that Jinja has
    work: WorkLimit,
    s: Any,
    length: Any = 255,
    killwords: Any = None,
    end: Any = "...",
    leeway: Any = 5,
) -> str:
    text, ending = text_of(s, work), text_of(end, work)
    most, over = _whole(length, "the length of truncate"), _whole(leeway, "the leeway of truncate")
    if most < len(ending) or over < 0:
        raise fault(f"truncate needs a length of {len(ending)} at least, and no negative leeway")
    if len(text) <= most + over:
        return text
    work.text(most)
    kept = text[: most - len(ending)]
    return (kept if given(killwords) else kept.rsplit(" ", 1)[0]) + ending


def _wordcount(work: WorkLimit, s: Any) -> int:
    text = _text(work, s, each=1)
    return sum(1 for _ in _WORD.finditer(text))


FILTERS: Mapping[str, Filter] = {
    "abs": _abs, "capitalize": _cased(str.capitalize), "d": _default, "default": _default,
    "first": _at(0), "float": _float, "int": _int, "items": _items, "join": _join, "last": _at(-1),
    "length": _length, "list": _list, "lower": _cased(str.lower),
    "max": _extreme(max, "the greatest of what is empty"),
    "min": _extreme(min, "the least of what is empty"),
    "reverse": _reverse, "round": _round, "sort": _sort, "string": _string, "title": _title,
    "tojson": _tojson, "trim": _trim, "truncate": _truncate, "unique": _unique,
    "upper": _cased(str.upper), "wordcount": _wordcount,
}  # fmt: skip

TAKE_MISSING = frozenset({"d", "default", "defined", "undefined"})
"""The filters and tests that accept a missing value."""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _holds_elements(value: Any) -> bool:
    return isinstance(value, str | Mapping) or is_list(value)


def _remainder(value: Any, by: Any) -> int | float:
    return number(value) % number(given(by))


def compared(operator: str, left: Any, right: Any, work: WorkLimit) -> bool:
    """Return the result of a comparison; `operator` is Jinja's name for it."""
    match operator:
        case "eq" | "ne":
            return equal(left, right, work) is (operator == "eq")
        case "in" | "notin":
            return _contains(right, left, work) is (operator == "in")
    if isinstance(left, str) and isinstance(right, str):
        work.spend(min(len(left), len(right)) // 16)
    elif is_list(left) and is_list(right):
        work.spend(weigh(left, work) + weigh(right, work))
    elif not (_is_number(left) and _is_number(right)):
        raise fault(f"a {kind(left)} and a {kind(right)} have no order")
    return bool(_ORDERS[operator](left, right))


_ORDERS = {"lt": lt, "gt": gt, "lteq": le, "gteq": ge}


def _contains(whole: Any, part: Any, work: WorkLimit) -> bool:
    if isinstance(whole, str):
        if not isinstance(part, str):
            raise fault(f"a text holds texts, no {kind(part)}")
        work.spend((len(whole) + len(part)) // 16)
        return part in whole
    if isinstance(whole, Mapping):
        return isinstance(part, str) and part in whole
    if not is_list(whole):
        raise fault(f"a {kind(whole)} has no elements")
    return any(equal(part, element, work) for element in whole)


TESTS: Mapping[str, Filter] = {
    "boolean": lambda _, value: isinstance(value, bool),
    "defined": lambda _, value: not isinstance(value, Missing),
    "divisibleby": lambda _, value, num: _remainder(value, num) == 0,
    "eq": lambda work, a, b: compared("eq", a, b, work),
    "equalto": lambda work, a, b: compared("eq", a, b, work),
    "even": lambda _, value: _remainder(value, 2) == 0,
    "false": lambda _, value: value is False,
    "float": lambda _, value: isinstance(value, float),
    "ge": lambda work, a, b: compared("gteq", a, b, work),
    "gt": lambda work, a, b: compared("gt", a, b, work),
    "in": lambda work, value, seq: compared("in", value, seq, work),
    "integer": lambda _, value: _is_integer(value),
    "iterable": lambda _, value: _holds_elements(value),
    "le": lambda work, a, b: compared("lteq", a, b, work),
    "lt": lambda work, a, b: compared("lt", a, b, work),
    "mapping": lambda _, value: isinstance(value, Mapping),
    "ne": lambda work, a, b: compared("ne", a, b, work),
    "none": lambda _, value: value is None,
    "number": lambda _, value: _is_number(value),
    "odd": lambda _, value: _remainder(value, 2) == 1,
    "sequence": lambda _, value: _holds_elements(value),
    "string": lambda _, value: isinstance(value, str),
    "true": lambda _, value: value is True,
    "undefined": lambda _, value: isinstance(value, Missing),
}

SIGNATURES: Mapping[Filter, inspect.Signature] = {
    function: inspect.signature(function) for function in (*FILTERS.values(), *TESTS.values())
}
