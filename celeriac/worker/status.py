"""The state of the consumer, shared with the children that its process forks.

In prefork the parent consumes messages and the children report to the database; in the other pools
both are one process. Only the parent writes.
"""

import mmap
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from celeriac.kit.json_types import dumps, loads

_SIZE = 128 * 1024
_TIMES = struct.Struct("=ddQ")
_LENGTH = struct.Struct("=I")
_NAMES_AT = 64
_FRESH_SECONDS = 15.0
_LONGEST_NAME = 200
_MOST_NAMES = 100


@dataclass(frozen=True, slots=True)
class ConsumerNames:
    """The consumed queues, and the names of received tasks that this worker doesn't know."""

    queues: Sequence[str] = ()
    unknown_tasks: Mapping[str, float] = field(default_factory=dict)
    """The time of the last message of each, by the monotonic clock of the host."""


class ConsumerStatus:
    """A shared page; it must be created before the fork."""

    def __init__(self) -> None:
        """Create the page: nothing is consumed yet."""
        self._page = mmap.mmap(-1, _SIZE)
        self._names = ConsumerNames()

    def consuming(self) -> None:
        """Record that messages are consumed now."""
        self._set(consuming_at=time.monotonic())

    def stopped(self) -> None:
        """Record that no messages are consumed from now on."""
        self._set(consuming_at=0.0)

    def took(self) -> None:
        """Record that a message was received now."""
        self._set(took_at=time.monotonic())

    def dropped(self, count: int) -> None:
        """Record how many messages were dropped since the start."""
        self._set(dropped=count)

    def set_names(self, names: ConsumerNames) -> None:
        """Set the names, truncated to what fits."""
        if names == self._names:
            return
        self._names = names
        queues = [name[:_LONGEST_NAME] for name in names.queues][:_MOST_NAMES]
        unknown = list(names.unknown_tasks.items())[:_MOST_NAMES]
        data = dumps([queues, {name[:_LONGEST_NAME]: at for name, at in unknown}]).encode()
        start = _NAMES_AT + _LENGTH.size
        if start + len(data) > _SIZE:
            data = dumps([[], {}]).encode()
        _LENGTH.pack_into(self._page, _NAMES_AT, 0)
        self._page[start : start + len(data)] = data
        _LENGTH.pack_into(self._page, _NAMES_AT, len(data))

    @property
    def is_consuming(self) -> bool:
        """Whether messages were consumed in the last seconds."""
        consumed_at = self._get()[0]
        return consumed_at > 0 and time.monotonic() - consumed_at < _FRESH_SECONDS

    @property
    def took_at(self) -> float:
        """When a message was received last, by the monotonic clock; 0 if never."""
        return self._get()[1]

    @property
    def dropped_count(self) -> int:
        """The number of messages dropped since the start."""
        return self._get()[2]

    def names(self) -> ConsumerNames:
        """Return the names last set."""
        (length,) = _LENGTH.unpack_from(self._page, _NAMES_AT)
        start = _NAMES_AT + _LENGTH.size
        try:
            queues, unknown = loads(self._page[start : start + length])
        except ValueError:
            return self._names  # they are being written
        self._names = ConsumerNames(queues, unknown)
        return self._names

    def _get(self) -> tuple[float, float, int]:
        consuming_at, took_at, dropped = _TIMES.unpack_from(self._page, 0)
        return consuming_at, took_at, dropped

    def _set(self, **changed: float) -> None:
        now = dict(zip(("consuming_at", "took_at", "dropped"), self._get(), strict=True))
        now.update(changed)
        _TIMES.pack_into(self._page, 0, now["consuming_at"], now["took_at"], int(now["dropped"]))
