"""Reads YAML and JSON as data, with the place of every field.

The rules are those of YAML 1.2: `no` and `2026-11-22` are strings, only `true` and `false` are
booleans. Anchors, aliases, tags, names that occur twice, and several documents in one text are
refused. Each text is read in one pass, and all values together are about as large as it is.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

MAX_DEPTH = 50
_MAX_FAULTS = 20

_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NO_NUMBER = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS = {"": None, "~": None, "null": None, "Null": None, "NULL": None,
          "true": True, "True": True, "TRUE": True,
          "false": False, "False": False, "FALSE": False}  # fmt: skip
_SURROGATES = re.compile(r"\\(?:u([dD][89abAB]\w\w)\\u([dD][c-fC-F]\w\w)|.)", re.DOTALL)
_PARSER = getattr(yaml, "CLoader", yaml.Loader)


@dataclass(frozen=True, slots=True)
class Place:
    """A position in a file; lines and columns count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class ReadText:
    """What a text holds, and what is wrong with it; with faults, the value has no meaning."""

    value: Any
    places: Mapping[str, Place] = field(default_factory=dict)
    """By the path of a field, as in `tasks.2.spec.prompt`; that of a name, not of its value."""
    scalars: Mapping[str, Place] = field(default_factory=dict)
    """The first characters of texts and numbers, behind their quotes, by the path of a field."""
    faults: tuple[tuple[Place, str], ...] = ()

    def place(self, path: Sequence[str | int], offset: int | None = None) -> Place | None:
        """Return the place of a field, or of the nearest one around it that is there.

        `offset` counts characters from the beginning of the field's text; the column is exact where
        the text is on one line and has no escapes before it.
        """
        joined = ".".join(map(str, path))
        if offset is not None and joined in self.scalars:
            value: Any = self.value
            for step in path:
                value = value[step]
            lines = str(value)[:offset].count("\n")
            first = self.scalars[joined]
            if lines:
                return replace(first, line=first.line + lines, column=1)
            return replace(first, column=first.column + offset)
        steps = list(map(str, path))
        known = (".".join(steps[:length]) for length in range(len(steps), -1, -1))
        return next((self.places[each] for each in known if each in self.places), None)


def read_text(text: str, name: str) -> ReadText:
    """Return the content of `text`, YAML or JSON; `name` is the file's name in places.

    An empty text gives None. Never raises for what is in the text.
    """
    reader = _Reader(name)
    value = reader.read(_plain_json(text))
    return ReadText(value, reader.places, reader.scalars, tuple(reader.faults))


class _Reader:
    """Builds values from the events of YAML, and records their places."""

    def __init__(self, name: str) -> None:
        self.places: dict[str, Place] = {}
        self.scalars: dict[str, Place] = {}
        self.faults: list[tuple[Place, str]] = []
        self._name = name

    def fault(self, place: Place, message: str) -> None:
        if len(self.faults) < _MAX_FAULTS:
            self.faults.append((place, message))

    def read(self, text: str) -> Any:
        """Return the value of `text`; it is meaningless if there are faults."""
        events = yaml.parse(text, Loader=_PARSER)
        try:
            return self._document(events)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            said = " ".join(filter(None, (error.context, error.problem)))
            self.fault(self._place(mark), f"this is not valid YAML: {said}")
        except yaml.YAMLError as error:
            self.fault(Place(self._name, 1, 1), f"this is not valid YAML: {error}")
        except _StopReadingError:
            pass
        return None

    def _document(self, events: Iterator[Any]) -> Any:
        value: Any = None
        documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self._stop(event, "a second document begins here; use one document, or files")
                value = self._value(next(events), events, "", 0)
        return value

    def _value(self, event: Any, events: Iterator[Any], path: str, depth: int) -> Any:
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            self._stop(event, "anchors and aliases are not used here; write the value out")
        if event.tag not in {None, "tag:yaml.org,2002:str"}:
            self._stop(event, f"the tag {event.tag} is not used here; remove it")
        self.places.setdefault(path, self._place(event.start_mark))
        if isinstance(event, yaml.ScalarEvent):
            self.scalars[path] = self._first(event)
            return self._scalar(event)
        if depth >= MAX_DEPTH:
            self._stop(event, f"it is nested deeper than {MAX_DEPTH} levels; flatten it")
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Any] = []
            while not isinstance(inner := next(events), yaml.SequenceEndEvent):
                items.append(self._value(inner, events, _path(path, len(items)), depth + 1))
            return items
        return self._mapping(events, path, depth)

    def _mapping(self, events: Iterator[Any], path: str, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not isinstance(key := next(events), yaml.MappingEndEvent):
            if not isinstance(key, yaml.ScalarEvent):
                self._stop(key, "the name of a field must be a string")
            name, inner = str(key.value), _path(path, key.value)
            place = self._place(key.start_mark)
            if name in found:
                self.fault(place, f"{name} is here a second time; remove one of them")
            self.places[inner] = place
            found[name] = self._value(next(events), events, inner, depth + 1)
        return found

    def _scalar(self, event: Any) -> Any:
        text: str = event.value
        is_plain = event.implicit[0] and event.tag is None
        if not is_plain:
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _INTEGER.fullmatch(text):
            return int(text, 0) if text[:2] in {"0o", "0x"} else self._number(event, int, text)
        if _FLOAT.fullmatch(text):
            return self._number(event, float, text)
        if _NO_NUMBER.fullmatch(text):
            self.fault(self._place(event.start_mark), f"{text} can't be stored; give a number")
        return text

    def _number(self, event: Any, kind: type[int] | type[float], text: str) -> int | float:
        try:
            number = kind(text)
        except ValueError:  # thousands of digits
            number = float("inf")
        if number in {float("inf"), float("-inf")}:
            self.fault(self._place(event.start_mark), "this number is too large to be stored")
        return number

    def _first(self, event: Any) -> Place:
        """Return the place of a scalar's first character."""
        mark = self._place(event.start_mark)
        if event.style in {"|", ">"}:
            return Place(mark.file, mark.line + 1, 1)
        return replace(mark, column=mark.column + 1) if event.style else mark

    def _stop(self, event: Any, message: str) -> None:
        self.fault(self._place(event.start_mark), message)
        raise _StopReadingError

    def _place(self, mark: Any) -> Place:
        return (
            Place(self._name, mark.line + 1, mark.column + 1) if mark else Place(self._name, 1, 1)
        )


class _StopReadingError(Exception):
    """The rest of the text can't be read."""


def _path(path: str, step: object) -> str:
    return f"{path}.{step}" if path else str(step)


def _plain_json(text: str) -> str:
    """Return JSON as YAML can read it: characters instead of surrogates, spaces instead of tabs.

    Lines stay the same, and nearly all columns.
    """
    if not text.lstrip().startswith(("{", "[")):
        return text
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return text
    return _SURROGATES.sub(_joined_pair, text).replace("\t", " ")


def _joined_pair(match: re.Match[str]) -> str:
    high, low = match.group(1, 2)
    if high is None:
        return match.group()
    return chr(0x10000 + ((int(high, 16) - 0xD800) << 10) + (int(low, 16) - 0xDC00))
