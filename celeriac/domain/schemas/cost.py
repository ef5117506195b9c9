"""The cost of validating with a JSON schema, calculated before anything is validated.

A schema is a graph: keywords lead to subschemas, `$ref` to any place. Keywords that apply to the
value itself (`allOf`, `if`, `$ref`, …) are followed and their steps are added up; steps double with
each level that has two references. Keywords that lead into the value (`properties`, `items`, …) may
lead back to the same schema. Their depth depends on the value, so the cost is calculated for each
depth (`Cost.of`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from graphlib import CycleError, TopologicalSorter
from urllib.parse import unquote, urldefrag, urljoin

from celeriac.domain.schemas.pattern import compiled_size, matching_size
from celeriac.kit.json_types import JsonObject, JsonValue

MAX_STEPS = 10_000
"""Limit of the steps of a schema for one value, without the values within it."""

MAX_IN_PLACE = 100
"""Limit of nested subschemas that apply to the same value."""

MAX_NESTING = 64
"""Limit of the levels of the schema itself."""

MAX_PATTERNS = 150_000
"""Limit of the total size of all patterns; compiling them takes at most 50 ms."""

_LISTED = frozenset({"allOf", "anyOf", "oneOf"})
_SINGLE = frozenset({"not", "if", "then", "else"})
_NAMED = frozenset({"dependentSchemas", "dependencies", "dependentRequired"})
_IN_PLACE = _LISTED | _SINGLE | _NAMED
_INTO_SOME = frozenset({"properties", "patternProperties", "prefixItems", "items"})
_INTO_ANY = frozenset(
    "additionalProperties unevaluatedProperties propertyNames additionalItems contains "
    "unevaluatedItems contentSchema".split()
)
_DEFINITIONS = frozenset({"$defs", "definitions"})
_REFERENCES = frozenset({"$ref", "$dynamicRef", "$recursiveRef"})
_UNEVALUATED = frozenset({"unevaluatedProperties", "unevaluatedItems"})
_DATA = frozenset({"enum", "const", "default", "examples", "example"})
"""Keywords whose values are data, not schemas."""

_AGAIN = 3
"""How often the subschemas that an `unevaluated…` depends on are evaluated."""

_UNIQUE_STEPS = 250
"""Steps of `uniqueItems` for each value within the array: all of them are hashed."""

_LENGTH = 1
_HASHED = 8
_FORMAT = 8 * 64
_REGEX = 2_000 * 64
"""Steps of a character, in sixty-fourths: for lengths and comparisons, for `uniqueItems`, for
formats, and for the format that compiles a text as a regular expression."""

_PATTERN = 48
"""The same for each unit of a pattern's size."""

_LEVELS = 16
_SATURATED = 10**12


class SchemaCostError(ValueError):
    """A schema costs too much, or a reference has no target; the message names the place."""


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of a schema in steps of about ten nanoseconds: an upper bound."""

    by_depth: tuple[tuple[int, int], ...]
    """For values of each depth: steps for each value, sixty-fourths of a step for each character.
    The last one applies to all deeper values, unless the cost `grows`."""
    grows: bool
    in_place: int
    """The number of nested subschemas that apply to the same value."""
    unfolded: int | None
    """Subschemas after all references are replaced by their targets; None if recursive."""
    patterns: int
    """The total size of all patterns."""

    def of(self, *, values: int, characters: int, depth: int) -> int:
        """Return the steps for a value that contains so many values, characters and levels."""
        if self.grows and depth >= len(self.by_depth):
            return _SATURATED
        levels = self.by_depth[: depth + 1]
        steps = max(each for each, _ in levels)
        of_characters = max(each for _, each in levels)
        return min(values * steps + characters * of_characters // 64, _SATURATED)


def cost_of(schema: JsonValue) -> Cost:
    """Return the cost of `schema`. Raises SchemaCostError if it exceeds the limits."""
    graph = _Graph(schema)
    try:
        order = list(
            TopologicalSorter({node: node.in_place for node in graph.nodes}).static_order()
        )
    except CycleError as error:
        place = error.args[1][0].place
        raise SchemaCostError(
            f"{place} leads back to itself without going into the value"
        ) from error
    longest: dict[_Node, int] = {}
    for node in order:
        longest[node] = 1 + max((longest[each] for each in node.in_place), default=0)
        if longest[node] > MAX_IN_PLACE:
            raise SchemaCostError(
                f"more than {MAX_IN_PLACE} subschemas apply to the same value, one within the "
                f"other, at {node.place}"
            )
    by_depth, grows = _by_depth(graph.root, order)
    return Cost(by_depth, grows, longest[graph.root], _unfolded(graph.root), graph.patterns)


@dataclass(slots=True, eq=False)
class _Node:
    """A subschema: the cost of its own keywords, and the subschemas that they lead to."""

    place: str
    steps: int = 1
    characters: int = 0
    times: int = 1
    in_place: list["_Node"] = field(default_factory=list)
    by_name: list["_Node"] = field(default_factory=list)
    by_index: list["_Node"] = field(default_factory=list)
    into_any: list["_Node"] = field(default_factory=list)

    @property
    def inner(self) -> Iterator["_Node"]:
        for found in (self.in_place, self.by_name, self.by_index, self.into_any):
            yield from found


class _Graph:
    """The subschemas of a schema and their edges."""

    def __init__(self, schema: JsonValue) -> None:
        self.patterns = 0
        self._names = _Names(schema)
        self._known: dict[int, _Node] = {}
        self._waiting: list[tuple[JsonObject, _Node]] = []
        self.nodes: list[_Node] = []
        self.root = self._node(schema, "#")
        while self._waiting:
            self._read(*self._waiting.pop())

    def _node(self, schema: JsonValue, place: str) -> _Node:
        known = self._known.get(id(schema)) if isinstance(schema, dict) else None
        if known is not None:
            return known
        node = _Node(place)
        self.nodes.append(node)
        if isinstance(schema, dict):
            self._known[id(schema)] = node
            self._waiting.append((schema, node))
        return node

    def _read(self, schema: JsonObject, node: _Node) -> None:
        for keyword, value in schema.items():
            node.steps += 1
            place = f"{node.place}/{keyword}"
            if keyword in _REFERENCES:
                if isinstance(value, str):
                    targets = self._names.find(schema, keyword, value, place)
                    node.in_place += [self._node(each, place) for each in targets]
            elif keyword in _IN_PLACE:
                self._lead_in_place(node, keyword, value, place)
            elif keyword in _INTO_ANY or keyword in _INTO_SOME:
                self._lead_inward(node, keyword, value, place)
            elif keyword in _DEFINITIONS:
                self._named(value, place)  # their patterns are compiled even if unused
            else:
                self._add_plain(node, keyword, value)

    def _lead_in_place(self, node: _Node, keyword: str, value: JsonValue, place: str) -> None:
        if keyword in _LISTED:
            node.in_place += self._listed(value, place)
        elif keyword in _SINGLE:
            node.in_place.append(self._node(value, place))
        else:
            node.in_place += self._named(value, place)
            node.steps += _size(value)

    def _lead_inward(self, node: _Node, keyword: str, value: JsonValue, place: str) -> None:
        if keyword == "properties":
            node.by_name += self._named(value, place)
            node.steps += _size(value)
        elif keyword == "patternProperties":
            node.into_any += self._named(value, place)
            for pattern in value if isinstance(value, dict) else ():
                self._add_pattern(node, pattern)
        elif keyword == "prefixItems" or isinstance(value, list):
            node.by_index += self._listed(value, place)
        else:
            node.into_any.append(self._node(value, place))
            if keyword in _UNEVALUATED:
                node.times = _AGAIN

    def _listed(self, value: JsonValue, place: str) -> list[_Node]:
        found = value if isinstance(value, list) else []
        return [self._node(each, f"{place}/{index}") for index, each in enumerate(found)]

    def _named(self, value: JsonValue, place: str) -> list[_Node]:
        found = value if isinstance(value, dict) else {}
        return [
            self._node(each, f"{place}/{name}")
            for name, each in found.items()
            if isinstance(each, dict | bool)
        ]

    def _add_plain(self, node: _Node, keyword: str, value: JsonValue) -> None:
        match keyword:
            case "pattern" if isinstance(value, str):
                self._add_pattern(node, value)
            case "enum":
                node.steps += _size(value) // 4
                node.characters += _LENGTH
            case "required":
                node.steps += _size(value)
            case "uniqueItems" if value is True:
                node.steps += _UNIQUE_STEPS
                node.characters += _HASHED
            case "format":
                node.characters += _REGEX if value == "regex" else _FORMAT
            case "contentMediaType" | "contentEncoding":
                node.characters += _FORMAT
            case "const" | "minLength" | "maxLength":
                node.characters += _LENGTH

    def _add_pattern(self, node: _Node, pattern: str) -> None:
        self.patterns += compiled_size(pattern)
        if self.patterns > MAX_PATTERNS:
            raise SchemaCostError(
                f"its patterns are too large together, at {node.place}: shorten their repetitions"
            )
        node.steps += 1
        node.characters += matching_size(pattern) * _PATTERN


class _Names:
    """The targets of references: places, `$id`s and anchors of a schema."""

    def __init__(self, schema: JsonValue) -> None:
        self._root = schema
        self._bases: dict[int, str] = {}
        self._resources: dict[str, JsonValue] = {"": schema}
        self._anchors: dict[tuple[str, str], JsonValue] = {}
        dialect = schema.get("$schema", "") if isinstance(schema, dict) else ""
        self._identity = "id" if "draft-04" in str(dialect) else "$id"
        waiting: list[tuple[JsonValue, str, int]] = [(schema, "", 0)]
        while waiting:
            value, base, depth = waiting.pop()
            if depth > MAX_NESTING:
                raise SchemaCostError(f"it is nested deeper than {MAX_NESTING} levels")
            if isinstance(value, list):
                waiting += [(each, base, depth + 1) for each in value]
            elif isinstance(value, dict):
                base = self._note(value, base)
                waiting += [
                    (each, base, depth + 1) for key, each in value.items() if key not in _DATA
                ]

    def _note(self, schema: JsonObject, base: str) -> str:
        identity = schema.get(self._identity)
        if isinstance(identity, str) and not identity.startswith("#"):
            base = _joined(base, identity)
            if self._resources.setdefault(base, schema) is not schema:
                raise SchemaCostError(f"two subschemas have the {self._identity} {base[:100]!r}")
        self._bases[id(schema)] = base
        names = [schema.get("$anchor"), schema.get("$dynamicAnchor")]
        if isinstance(identity, str) and identity.startswith("#"):
            names.append(identity[1:])
        for name in names:
            if isinstance(name, str) and (
                self._anchors.setdefault((base, name), schema) is not schema
            ):
                raise SchemaCostError(f"two subschemas have the anchor {name[:100]!r}")
        return base

    def find(self, schema: JsonObject, keyword: str, reference: str, place: str) -> list[JsonValue]:
        """Return the possible targets of a reference; a dynamic one may have several."""
        base = self._bases.get(id(schema), "")
        if keyword == "$recursiveRef":
            return [self._resources.get(base, self._root), self._root]
        address, _, fragment = reference.partition("#")
        if address:
            address = address if address in self._resources else _joined(base, address)
        else:
            address = base
        if keyword == "$dynamicRef" and not fragment.startswith("/"):
            found = [each for (_, name), each in self._anchors.items() if name == fragment]
        else:
            found = [self._at(address, unquote(fragment))]
        if not found or None in found:
            raise SchemaCostError(
                f"{place} leads nowhere within the schema: {reference[:100]!r}; other documents "
                "can't be referred to"
            )
        return found

    def _at(self, address: str, fragment: str) -> JsonValue:
        """Return the target of an address, or None."""
        value = self._resources.get(address)
        if fragment and not fragment.startswith("/"):
            return self._anchors.get((address, fragment))
        for token in fragment.split("/")[1:]:
            key = token.replace("~1", "/").replace("~0", "~")
            if isinstance(value, dict):
                value = value.get(key)
            elif isinstance(value, list) and key.isdecimal() and int(key[:6]) < len(value):
                value = value[int(key[:6])]
            else:
                return None
        return value


def _joined(base: str, address: str) -> str:
    try:
        return urldefrag(urljoin(base, address))[0]
    except ValueError as error:
        raise SchemaCostError(f"{address[:100]!r} is not an address") from error


def _size(value: JsonValue) -> int:
    """Return the number of entries of a list, or of a mapping and the lists in it."""
    if isinstance(value, dict):
        return len(value) + sum(len(each) for each in value.values() if isinstance(each, list))
    return len(value) if isinstance(value, list) else 0


_Vector = Mapping[_Node, tuple[int, int]]


def _by_depth(root: _Node, order: Sequence[_Node]) -> tuple[tuple[tuple[int, int], ...], bool]:
    """Return the cost for values of each depth, and whether it grows beyond the last one."""
    level: _Vector = _level(order, lambda node: (node.steps, node.characters))
    for node in order:
        if level[node][0] > MAX_STEPS:
            raise SchemaCostError(
                f"it takes more than {MAX_STEPS} steps for one value, at {node.place}: let fewer "
                "references lead to the same place"
            )
    found = [level[root]]
    for _ in range(_LEVELS):
        below = level
        level = _level(order, partial(_within, below))
        found.append(level[root])
        if level == below:
            return tuple(found), False
        if max(found[-1]) > _SATURATED // 1000:
            break
    return tuple(found), True


def _level(order: Sequence[_Node], own: Callable[[_Node], tuple[int, int]]) -> _Vector:
    """Return the cost of each node with all subschemas that apply to the same value."""
    level: dict[_Node, tuple[int, int]] = {}
    for node in order:
        steps, characters = own(node)
        for each in node.in_place:
            more = level[each]
            steps, characters = steps + more[0], characters + more[1]
        level[node] = (
            min(steps * node.times, _SATURATED),
            min(characters * node.times, _SATURATED),
        )
    return level


def _within(below: _Vector, node: _Node) -> tuple[int, int]:
    """Return the maximum cost of a node's keywords for a value one level deeper."""
    one = [below[each] for each in (*node.by_name, *node.by_index)]
    every = [below[each] for each in node.into_any]
    steps = max((each[0] for each in one), default=0) + sum(each[0] for each in every)
    characters = max((each[1] for each in one), default=0) + sum(each[1] for each in every)
    return steps, characters


def _unfolded(root: _Node) -> int | None:
    inner: dict[_Node, list[_Node]] = {}
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if node not in inner:
            inner[node] = list(node.inner)
            waiting += inner[node]
    counts: dict[_Node, int] = {}
    try:
        for node in TopologicalSorter(inner).static_order():
            counts[node] = min(1 + sum(counts[each] for each in inner[node]), _SATURATED)
    except CycleError:
        return None
    return counts[root]
