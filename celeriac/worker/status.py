"""The state of the consumer, shared with the children that its process forks.

In prefork the parent consumes messages and the children report to the database; in the other pools
both are one process. Only the parent writes.
"""

import ctypes
import mmap
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from celery.utils.log import current_process_index

from celeriac.kit.json_types import dumps, loads

_MOST_PROCESSES = 1024
_NAMES_BYTES = 128 * 1024
_FRESH_SECONDS = 15.0
_LONGEST_NAME = 200
_MOST_NAMES = 100


@dataclass(frozen=True, slots=True)
class ConsumerNames:
    """The consumed queues, and the names of received tasks that this worker doesn't know."""

    queues: Sequence[str] = ()
    unknown_tasks: Mapping[str, float] = field(default_factory=dict)
    """The time of the last message of each, by the monotonic clock of the host."""


class _Page(ctypes.Structure):
    """The shared memory; `consuming_at` and `took_at` are of the monotonic clock, 0 is never."""

    _fields_ = (
        ("consuming_at", ctypes.c_double),
        ("took_at", ctypes.c_double),
        ("paused", ctypes.c_bool),
        ("dropped", ctypes.c_uint64),
        ("length", ctypes.c_uint32),
        ("names", ctypes.c_char * _NAMES_BYTES),
    )


class RunningCounts:
    """How many attempts each process of a worker runs; it must be created before the fork."""

    def __init__(self) -> None:
        self._counts = (ctypes.c_uint32 * _MOST_PROCESSES).from_buffer(
            mmap.mmap(-1, 4 * _MOST_PROCESSES)
        )

    def set(self, count: int) -> None:
        """Record that this process runs so many."""
        index = current_process_index(0) or 0  # a child's place in its pool
        self._counts[index % _MOST_PROCESSES] = count

    @property
    def total(self) -> int:
        """How many run in all processes, a moment ago."""
        return sum(self._counts)


class ConsumerStatus:
    """A shared page; it must be created before the fork."""

    def __init__(self) -> None:
        self._page = _Page.from_buffer(mmap.mmap(-1, ctypes.sizeof(_Page)))
        self._names = ConsumerNames()

    def consuming(self) -> None:
        """Record that messages are consumed now."""
        self._page.consuming_at = time.monotonic()

    def stopped(self) -> None:
        """Record that no messages are consumed from now on."""
        self._page.consuming_at = 0.0

    def took(self) -> None:
        """Record that a message was received now."""
        self._page.took_at = time.monotonic()

    def dropped(self, count: int) -> None:
        """Record how many messages were dropped since the start."""
        self._page.dropped = count

    def set_names(self, names: ConsumerNames) -> None:
        """Set the names, truncated to what fits."""
        if names == self._names:
            return
        self._names = names
        queues = [name[:_LONGEST_NAME] for name in names.queues][:_MOST_NAMES]
        unknown = list(names.unknown_tasks.items())[:_MOST_NAMES]
        data = dumps([queues, {name[:_LONGEST_NAME]: at for name, at in unknown}]).encode()
        if len(data) > _NAMES_BYTES:
            data = dumps([[], {}]).encode()
        self._page.length = 0  # readers keep the earlier names meanwhile
        self._page.names = data
        self._page.length = len(data)

    def set_paused(self, paused: bool) -> None:  # noqa: FBT001 - it is all that it sets
        """Set whether the worker is paused; the processes that run executions know."""
        self._page.paused = paused

    @property
    def paused(self) -> bool:
        """Whether the worker is paused: it consumes nothing until it is resumed."""
        return bool(self._page.paused)

    @property
    def is_consuming(self) -> bool:
        """Whether messages were consumed in the last seconds."""
        consuming_at: float = self._page.consuming_at
        return consuming_at > 0 and time.monotonic() - consuming_at < _FRESH_SECONDS

    @property
    def took_at(self) -> float:
        """When a message was received last, by the monotonic clock; 0 if never."""
        return float(self._page.took_at)

    @property
    def dropped_count(self) -> int:
        """The number of messages dropped since the start."""
        return int(self._page.dropped)

    def names(self) -> ConsumerNames:
        """Return the names last set."""
        try:
            queues, unknown = loads(self._page.names[: self._page.length])
        except ValueError:
            return self._names  # they are being written
        self._names = ConsumerNames(queues, unknown)
        return self._names
