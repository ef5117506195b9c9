"""What the process with the consumer knows, shared with the children that it forks.

In prefork the parent takes messages and the children report rows; in the other pools both are one
process. The parent alone writes.
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
    """The queues that are listened to, and names of tasks that came and that nobody knows here."""

    queues: Sequence[str] = ()
    unknown_tasks: Mapping[str, float] = field(default_factory=dict)
    """The time of the last message of each, by the monotonic clock of the host."""


class ConsumerStatus:
    """A shared page; it must exist before the fork."""

    def __init__(self) -> None:
        """Make the page: nothing is consumed yet."""
        self._page = mmap.mmap(-1, _SIZE)
        self._names = ConsumerNames()

    def consuming(self) -> None:
        """Say that messages are taken now."""
        self._set(consuming_at=time.monotonic())

    def stopped(self) -> None:
        """Say that no messages are taken from now on."""
        self._set(consuming_at=0.0)

    def took(self) -> None:
        """Say that a message was received now."""
        self._set(took_at=time.monotonic())

    def dropped(self, count: int) -> None:
        """Say how many messages were dropped since the start."""
        self._set(dropped=count)

    def say_names(self, names: ConsumerNames) -> None:
        """Set the names, cut to what fits."""
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
        """Whether messages are taken, as far as was said in the last seconds."""
        said = self._get()[0]
        return said > 0 and time.monotonic() - said < _FRESH_SECONDS

    @property
    def took_at(self) -> float:
        """When a message was received last, by the monotonic clock; 0 for never."""
        return self._get()[1]

    @property
    def dropped_count(self) -> int:
        """How many messages were dropped since the start."""
        return self._get()[2]

    def names(self) -> ConsumerNames:
        """Return the names as they were last said."""
        (length,) = _LENGTH.unpack_from(self._page, _NAMES_AT)
        start = _NAMES_AT + _LENGTH.size
        try:
            queues, unknown = loads(self._page[start : start + length])
        except ValueError:
            return self._names  # they are just being written
        self._names = ConsumerNames(queues, unknown)
        return self._names

    def _get(self) -> tuple[float, float, int]:
        consuming_at, took_at, dropped = _TIMES.unpack_from(self._page, 0)
        return consuming_at, took_at, dropped

    def _set(self, **changed: float) -> None:
        now = dict(zip(("consuming_at", "took_at", "dropped"), self._get(), strict=True))
        now.update(changed)
        _TIMES.pack_into(self._page, 0, now["consuming_at"], now["took_at"], int(now["dropped"]))
