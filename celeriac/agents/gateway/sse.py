"""Server-sent events: the framing of streamed answers."""

import codecs
import io
from collections.abc import Iterator
from dataclasses import dataclass

from celeriac.agents.gateway.completions import AnswerError

MAX_EVENT_BYTES = 16 * 1024 * 1024


class EventTooLongError(AnswerError):
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
        text = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self._decoder = io.IncrementalNewlineDecoder(text, translate=True)
        self._rest = ""
        self._data: list[str] = []
        self._size = 0
        self._name = ""

    def feed(self, chunk: bytes, *, final: bool = False) -> Iterator[Event]:
        """Yield the events that `chunk` completes."""
        self._size += len(chunk)
        *lines, self._rest = (self._rest + self._decoder.decode(chunk, final)).split("\n")
        for line in lines:
            yield from self._line(line)
        if self._size > MAX_EVENT_BYTES:
            raise EventTooLongError("it sent an event that is too long")

    def end(self) -> Iterator[Event]:
        """Yield what the stream ended with, which some servers don't complete by an empty line."""
        yield from self.feed(b"\n\n", final=True)

    def _line(self, line: str) -> Iterator[Event]:
        if not line:
            data, name = "\n".join(self._data), self._name
            self._data, self._size, self._name = [], 0, ""
            if data.strip():
                yield Event(data, name)
            return
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
        elif field == "event":
            self._name = value
