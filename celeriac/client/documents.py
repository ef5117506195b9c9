"""Documents of agents, tasks and budgets, read from files of YAML or JSON.

The rules are those of YAML 1.2: `no` and `2026-11-22` are strings, only `true` and `false` are
booleans. Anchors, aliases, tags and several documents in one file are refused.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from celeriac.client.errors import ClientError

MAX_CHARACTERS = 1_000_000
MAX_DEPTH = 50
_MAX_FAULTS = 20
_SECTIONS = ("agents", "tasks", "budgets")

_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NO_NUMBER = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS = {"": None, "~": None, "null": None, "Null": None, "NULL": None,
          "true": True, "True": True, "TRUE": True,
          "false": False, "False": False, "FALSE": False}  # fmt: skip
_OLD_BOOLEANS = frozenset({"yes", "no", "on", "off", "y", "n"})
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


class DocumentError(ClientError):
    """A file is not a valid document. Each line of the message has a place, a fault and a cure."""

    def __init__(self, faults: Sequence[tuple[Place | str, str]]) -> None:
        """`faults` are pairs of a place, or the name of a file, and a message."""
        super().__init__(
            "\n".join(f"{place}: {message}" for place, message in faults), code="document_invalid"
        )


@dataclass(frozen=True, slots=True)
class Document:
    """The content of one or several files, with the place of each part."""

    content: Mapping[str, Any]
    places: Mapping[str, Place] = field(default_factory=dict)
    """By the path of a field, as in `tasks.2.spec.prompt`."""

    @classmethod
    def read(cls, *files: Path) -> "Document":
        """Return the joined content of all files. Raises DocumentError."""
        return cls.joined([cls.parse(_text(path), str(path)) for path in files])

    @classmethod
    def parse(cls, text: str, name: str) -> "Document":
        """Return the content of `text`, YAML or JSON; `name` is the file's name in messages.

        Raises DocumentError with all faults, up to the first that makes the rest unreadable.
        """
        if len(text) > MAX_CHARACTERS:
            raise DocumentError(
                [(name, f"it has more than {MAX_CHARACTERS:,} characters; split it")]
            )
        reader = _Reader(name)
        content = reader.read(_plain_json(text))
        if content is None and not reader.faults:
            reader.fault(Place(name, 1, 1), f"it is empty; give {', '.join(_SECTIONS)}")
        elif not isinstance(content, dict) and not reader.faults:
            reader.fault(Place(name, 1, 1), f"there must be a mapping with {', '.join(_SECTIONS)}")
        if reader.faults:
            raise DocumentError(reader.faults)
        assert isinstance(content, dict)
        # without empty sections, such as one with all entries commented out
        kept = {key: value for key, value in content.items() if value is not None}
        return cls(kept, reader.places)

    @classmethod
    def joined(cls, documents: Sequence["Document"]) -> "Document":
        """Return one document with the entries of all, in their order."""
        if len(documents) == 1:
            return documents[0]
        content: dict[str, Any] = {}
        places: dict[str, Place] = {}
        for document in documents:
            offsets = {key: len(content.get(key, ())) for key in _SECTIONS}
            for path, place in document.places.items():
                places.setdefault(_moved(path, offsets), place)
            for key, value in document.content.items():
                if key not in _SECTIONS or not isinstance(value, list):
                    content[key] = value  # the server reports the fault
                else:
                    content[key] = [*content.get(key, ()), *value]
        return cls(content, places)

    def located(self, error: ClientError) -> ClientError:
        """Return the server's error for this document, with file, line and entry of each fault.

        Errors without fields are returned unchanged.
        """
        lines = [f"{self._where(fault.field)}: {self._said(fault)}" for fault in error.fields]
        if not lines:
            return error
        message = "\n".join(["The document can't be applied; nothing was changed.", *lines])
        return ClientError(
            message,
            code=error.code,
            status=error.status,
            request_id=error.request_id,
            fields=error.fields,
            details=error.details,
        )

    def _where(self, path: str) -> str:
        """Return the place, the entry and the field of a path, as far as they are known."""
        steps = path.split(".")
        known = (".".join(steps[:length]) for length in range(len(steps), 0, -1))
        place = next((self.places[each] for each in known if each in self.places), None)
        section, index, rest = steps[0], steps[1:2], steps[2:]
        shown = path
        if section in _SECTIONS and index:
            shown = f"{section.removesuffix('s')} {self._named(section, index[0])}"
            shown += f", {'.'.join(rest)}" if rest else ""
        return shown if place is None else f"{place}: {shown}"

    def _named(self, section: str, index: str) -> str:
        try:
            entry = self.content[section][int(index)]
        except (KeyError, IndexError, ValueError, TypeError):
            return index
        name = entry.get("name", entry.get("task")) if isinstance(entry, dict) else None
        return str(name) if isinstance(name, str) else f"number {int(index) + 1}"

    def _said(self, fault: Any) -> str:
        value = self._value(fault.field)
        message = str(fault.message)
        if "boolean" in message and str(value).lower() in _OLD_BOOLEANS:
            return f"{message}; {value} is a string in YAML 1.2: write true or false"
        if "string" in message and isinstance(value, int | float):
            return f"{message}; put it in quotes to make it a string"
        return message

    def _value(self, path: str) -> Any:
        value: Any = self.content
        for step in path.split("."):
            try:
                value = value[int(step) if isinstance(value, list) else step]
            except (KeyError, IndexError, ValueError, TypeError):
                return None
        return value


class _Reader:
    """Builds values from the events of YAML, and records their places."""

    def __init__(self, name: str) -> None:
        self.places: dict[str, Place] = {}
        self.faults: list[tuple[Place | str, str]] = []
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


def _moved(path: str, offsets: Mapping[str, int]) -> str:
    """Return a path with its index increased by the number of entries in other files."""
    section, _, rest = path.partition(".")
    index, dot, inner = rest.partition(".")
    if section not in offsets or not index.isdigit():
        return path
    return f"{section}.{int(index) + offsets[section]}{dot}{inner}"


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


def _text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8-sig") as file:
            return file.read(MAX_CHARACTERS + 1)
    except OSError as error:
        raise DocumentError([(str(path), f"it can't be read: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        raise DocumentError([(str(path), "it is not UTF-8 text")]) from error
