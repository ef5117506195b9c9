"""Documents of agents, tasks and what starts them, read from files of YAML or JSON.

The rules are those of YAML 1.2: `no` and `2026-11-22` are strings, only `true` and `false` are
booleans. Anchors, aliases, tags and several documents in one file are refused.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from celeriac.client.errors import ClientError
from celeriac.kit.yaml_text import Place, read_text

MAX_CHARACTERS = 1_000_000
_SECTIONS = ("agents", "tasks", "budgets", "workflows", "limits", "schedules", "hooks")
_OLD_BOOLEANS = frozenset({"yes", "no", "on", "off", "y", "n"})


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
        read = read_text(text, name)
        if read.faults:
            raise DocumentError(read.faults)
        content = read.value
        if not isinstance(content, dict):
            there = "it is empty; give" if content is None else "there must be a mapping with"
            raise DocumentError([(Place(name, 1, 1), f"{there} {', '.join(_SECTIONS)}")])
        if secrets := [*_secrets(content, read.places, name)]:
            raise DocumentError(secrets)
        # without empty sections, such as one with all entries commented out
        kept = {key: value for key, value in content.items() if value is not None}
        return cls(kept, read.places)

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

    def with_secrets(self, environment: Mapping[str, str]) -> "Document":
        """Return the document with the secrets of hooks, from the variables of `secret_env`.

        Those that are not set are left out: the server needs them for new hooks only.
        """
        hooks = self.content.get("hooks")
        if not isinstance(hooks, list):
            return self
        return replace(
            self, content={**self.content, "hooks": [_filled(each, environment) for each in hooks]}
        )

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
        fields = entry if isinstance(entry, dict) else {}
        name = fields.get("name", fields.get("task", fields.get("workflow")))
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


def _secrets(
    content: Mapping[str, Any], places: Mapping[str, Place], name: str
) -> Iterator[tuple[Place | str, str]]:
    """Yield a fault for each secret that is written in a file."""
    hooks = content.get("hooks")
    for index, each in enumerate(hooks if isinstance(hooks, list) else ()):
        if isinstance(each, dict) and each.get("secret") is not None:
            said = (
                f"hook {each.get('name', index + 1)}, secret: secrets are not written in files; "
                "name an environment variable in secret_env"
            )
            yield places.get(f"hooks.{index}.secret", name), said


def _filled(hook: Any, environment: Mapping[str, str]) -> Any:
    """Return an entry with its secret, if a variable of the environment has it."""
    named = hook.get("secret_env") if isinstance(hook, dict) else None
    secret = environment.get(named) if isinstance(named, str) else None
    return {**hook, "secret": secret} if secret else hook


def _moved(path: str, offsets: Mapping[str, int]) -> str:
    """Return a path with its index increased by the number of entries in other files."""
    section, _, rest = path.partition(".")
    index, dot, inner = rest.partition(".")
    if section not in offsets or not index.isdigit():
        return path
    return f"{section}.{int(index) + offsets[section]}{dot}{inner}"


def _text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8-sig") as file:
            return file.read(MAX_CHARACTERS + 1)
    except OSError as error:
        raise DocumentError([(str(path), f"it can't be read: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        raise DocumentError([(str(path), "it is not UTF-8 text")]) from error
