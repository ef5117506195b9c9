"""The host that a TLS connection asks for, in its first message (RFC 8446, 4.1.2; RFC 6066, 3)."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

_HANDSHAKE, _MAJOR_VERSION, _CLIENT_HELLO = 22, b"\x03", b"\x01"
_RECORDS = range(20, 25)
"""Types of records. Servers pass over some that come before the first message, such as alerts."""
_SERVER_NAME, _HOST_NAME = 0, 0
_ENCRYPTED_NAME = 0xFE0D  # RFC 9849
_RECORD_HEAD, _MESSAGE_HEAD = 5, 4
_MOST_RECORDS = 16
"""A first message in more records is taken for malformed: it is read again with each of them."""
MOST_BYTES = 65_536
"""A longer first message is taken for malformed: real ones have some kilobytes at most."""

ACCESS_DENIED = bytes((21, 3, 3, 0, 2, 2, 49))
"""A fatal alert, for clients whose connection is refused."""


class Reading(Enum):
    """What else there is than a whole first message."""

    INCOMPLETE = "incomplete"
    OTHER = "other"
    """It is not TLS."""
    MALFORMED = "malformed"


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message of a TLS connection; `name` is the host it asks for, if it names one.

    `encrypted` says that it may ask for another one, which only the server can read (ECH).
    """

    name: str | None
    encrypted: bool = False


def read_hello(data: bytes) -> Hello | Reading:
    """Read the beginning of what a client sends."""
    if data and (data[0] not in _RECORDS or data[1:2] not in (b"", _MAJOR_VERSION)):
        old = _old_hello(data)
        if old is None:
            return Reading.INCOMPLETE
        return Reading.MALFORMED if old else Reading.OTHER
    message = bytearray()
    place = records = 0
    while not _is_whole(message):
        if records == _MOST_RECORDS:
            return Reading.MALFORMED
        records += 1
        head = data[place : place + _RECORD_HEAD]
        size = int.from_bytes(head[3:])
        part = data[place + _RECORD_HEAD : place + _RECORD_HEAD + size]
        message += part
        if len(head) == _RECORD_HEAD and (
            head[0] != _HANDSHAKE or size == 0 or message[:1] not in (b"", _CLIENT_HELLO)
        ):
            return Reading.MALFORMED
        if len(head) < _RECORD_HEAD or len(part) < size:
            return Reading.MALFORMED if len(data) > MOST_BYTES else Reading.INCOMPLETE
        place += _RECORD_HEAD + size
    return _read_message(bytes(message))


def _old_hello(data: bytes) -> bool | None:
    """Whether `data` begins with a greeting of SSL 2, which names no host; None: it could become.

    Servers answer one with TLS (RFC 5246, E.2).
    """
    if data[:1] < b"\x80":
        return False
    kind, version = data[2:3], data[3:4]
    if kind not in (b"", _CLIENT_HELLO) or version not in (b"", _MAJOR_VERSION):
        return False
    return True if version else None


def _is_whole(message: bytes | bytearray) -> bool:
    head = message[:_MESSAGE_HEAD]
    return len(head) == _MESSAGE_HEAD and len(message) - len(head) >= int.from_bytes(head[1:])


def _read_message(message: bytes) -> Hello | Reading:
    try:
        extensions = _extensions(_Fields(message[4 : 4 + int.from_bytes(message[1:4])]))
        return Hello(_server_name(extensions), _ENCRYPTED_NAME in extensions)
    except (ValueError, UnicodeDecodeError):
        return Reading.MALFORMED


def _extensions(body: "_Fields") -> dict[int, bytes]:
    body.take(2 + 32)  # version, random
    for width in (1, 2, 1):  # session, cipher suites, compression methods
        body.vector(width)
    found: dict[int, bytes] = {}
    if body.ended:
        return found
    extensions = _Fields(body.vector(2))
    while not extensions.ended:
        kind = int.from_bytes(extensions.take(2))
        if kind in found:
            raise ValueError("has an extension twice")
        found[kind] = extensions.vector(2)
    return found


def _server_name(extensions: Mapping[int, bytes]) -> str | None:
    if _SERVER_NAME not in extensions:
        return None
    names = _Fields(_Fields(extensions[_SERVER_NAME]).vector(2))
    while not names.ended:
        form, name = names.take(1)[0], names.vector(2)
        if form == _HOST_NAME:
            return name.decode("ascii")
    return None


class _Fields:
    """Fields of a message, one after the other. Methods raise ValueError where it is too short."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    @property
    def ended(self) -> bool:
        return self._place >= len(self._data)

    def take(self, size: int) -> bytes:
        part = self._data[self._place : self._place + size]
        if len(part) < size:
            raise ValueError("too short")
        self._place += size
        return part

    def vector(self, width: int) -> bytes:
        return self.take(int.from_bytes(self.take(width)))
