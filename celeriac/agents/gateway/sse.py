"""Server-sent events: the framing of streamed answers."""

from collections.abc import Iterator
from dataclasses import dataclass

MAX_EVENT_BYTES = 16 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"


class EventTooLongError(Exception):
    """One event has more than `MAX_EVENT_BYTES`."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its data, never empty, and its name, empty where it has none."""

    data: str
    name: str = ""


class EventReader:
    """Cuts bytes, which may come in any pieces, into events.

    Events without data and a leading byte order mark are dropped. Lines end with LF, CR or both.
    Bytes that are not UTF-8 become U+FFFD. Raises EventTooLongError.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._begun = False
        self._data: list[bytes] = []
        self._size = 0
        self._name = ""

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Yield the events that `chunk` completes."""
        data = self._rest + chunk
        if not self._begun:
            if len(data) < len(_BOM) and _BOM.startswith(data):
                self._rest = data
                return
            data, self._begun = data.removeprefix(_BOM), True
        # the LF of a CR LF may come with the next piece
        held = b"\r" if data.endswith(b"\r") else b""
        *lines, rest = (
            data[: len(data) - len(held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        )
        self._rest = rest + held
        if len(self._rest) + self._size > MAX_EVENT_BYTES:
            raise EventTooLongError
        for line in lines:
            yield from self._line(line)

    def end(self) -> Iterator[Event]:
        """Yield what the stream ended with, which some servers don't complete by an empty line."""
        line, self._rest = self._rest.rstrip(b"\r"), b""
        if line:
            yield from self._line(line)
        yield from self._line(b"")

    def _line(self, line: bytes) -> Iterator[Event]:
        if not line:
            data = b"\n".join(self._data).decode(errors="replace")
            name, self._name = self._name, ""
            self._data, self._size = [], 0
            if data.strip():
                yield Event(data, name)
            return
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
            self._size += len(value)
        elif field == b"event":
            self._name = value.decode(errors="replace")
