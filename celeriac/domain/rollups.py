"""Sums of executions that ended, by minute, hour and day, and histograms of their durations.

Bucket `n` of a histogram holds durations above `2 ** ((n - 1) / 4)` and up to `2 ** (n / 4)`
milliseconds. The first also holds shorter ones, the last all longer ones (more than two and a half
days). Histograms of several rows add up to that of all their executions, so percentiles of any
window are exact but for the width of a bucket: at most 8.7 % of the duration.
"""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType
from uuid import UUID

BUCKETS = 112
"""How many buckets a histogram has at most."""

_PER_OCTAVE = 4

THRESHOLDS: Sequence[int] = tuple(
    math.floor(2 ** (number / _PER_OCTAVE)) + 1 for number in range(BUCKETS - 1)
)
"""The first whole millisecond that is above each bucket but the last.

The bucket of a duration is the number of thresholds that it has reached. PostgreSQL counts them by
`width_bucket`.
"""

QUANTILES: Mapping[str, float] = MappingProxyType({"p50": 0.5, "p95": 0.95, "p99": 0.99})

MINUTE_WINDOW_SECONDS = 3_600
HOUR_WINDOW_SECONDS = 2 * 86_400
SHORTEST_WINDOW_SECONDS = 60
LONGEST_WINDOW_SECONDS = 92 * 86_400
MOST_LISTED = 100
MOST_QUEUES_OF_TASK = 20
"""Sums of a task in further queues, to which no worker listens, are those of the queue `other`."""


class Grain(StrEnum):
    """How much time a row of sums is about."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    TOTAL = "total"


class RollupScope(StrEnum):
    """What a row of sums is about."""

    SYSTEM = "system"
    WORKSPACE = "workspace"
    TASK = "task"
    """A task in one queue."""


def grain_of(seconds: float) -> Grain:
    """Return the grain that a window is read from: at most 93 rows of each key."""
    if seconds <= MINUTE_WINDOW_SECONDS:
        return Grain.MINUTE
    return Grain.HOUR if seconds <= HOUR_WINDOW_SECONDS else Grain.DAY


def bucket_of(milliseconds: int) -> int:
    """Return the bucket of a duration."""
    return bisect_right(THRESHOLDS, milliseconds)


def upper_bound(bucket: int) -> float:
    """Return the longest duration of a bucket in seconds; infinity for the last."""
    return math.inf if bucket >= BUCKETS - 1 else 2 ** (bucket / _PER_OCTAVE) / 1_000


def _middle(bucket: int) -> float:
    """Return the duration in seconds that is off by the same share at both ends of a bucket."""
    high = 2 ** (bucket / _PER_OCTAVE) / 1_000
    if bucket == 0:
        return high
    low = 2 ** ((bucket - 1) / _PER_OCTAVE) / 1_000
    return 2 * low * high / (low + high)


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many durations fell into each bucket; buckets without any are left out."""

    counts: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, milliseconds: Iterable[int]) -> "Histogram":
        """Return the histogram of durations."""
        return cls(dict(Counter(map(bucket_of, milliseconds))))

    @classmethod
    def stored(cls, buckets: Sequence[int] | None, counts: Sequence[int] | None) -> "Histogram":
        """Return the histogram of two columns of a row: buckets, and the count of each."""
        return cls(dict(zip(buckets or (), counts or (), strict=True)))

    @classmethod
    def merged(cls, parts: Iterable["Histogram"]) -> "Histogram":
        """Return the histogram of the durations of all parts."""
        counts: Counter[int] = Counter()
        for each in parts:
            counts.update(each.counts)
        return cls(dict(counts))

    @property
    def count(self) -> int:
        """How many durations there are."""
        return sum(self.counts.values())

    def quantile(self, share: float) -> float | None:
        """Return the duration in seconds that `share` of all do not exceed; None without any.

        For whole milliseconds it is off by at most 8.7 %. What is longer than the last bucket
        counts as in it.
        """
        rank = max(1, math.ceil(share * self.count))
        seen = 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen >= rank:
                return _middle(bucket)
        return None

    def up_to(self, bucket: int) -> int:
        """Return how many durations are in this bucket or a shorter one."""
        return sum(count for each, count in self.counts.items() if each <= bucket)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """Sums of executions that ended. Durations in seconds, costs in US dollars."""

    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    retries: int = 0
    crashes: int = 0
    """Attempts that were lost with their worker."""
    model_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    """Of the input tokens, those that the provider had in its cache."""
    denied_tools: int = 0
    no_ops: int = 0
    """Those that completed and had done nothing (`celeriac.domain.executions.flags`)."""
    cost: Decimal = Decimal(0)
    wait_seconds: float = 0.0
    """From when they could begin until they began, of those that began."""
    run_seconds: float = 0.0
    """From their begin to their end, with retries and the time in which they waited."""
    wait: Histogram = field(default_factory=Histogram)
    run: Histogram = field(default_factory=Histogram)

    @classmethod
    def merged(cls, parts: Sequence["Sums"]) -> "Sums":
        """Return the sums of the executions of all parts."""
        names = [each for each in cls.__dataclass_fields__ if each not in ("wait", "run")]
        values = {name: sum(getattr(each, name) for each in parts) for name in names}
        return cls(
            **{**values, "cost": sum((each.cost for each in parts), Decimal(0))},
            wait=Histogram.merged(each.wait for each in parts),
            run=Histogram.merged(each.run for each in parts),
        )

    @property
    def ended(self) -> int:
        """How many executions have ended."""
        return self.completed + self.failed + self.cancelled

    @property
    def success_rate(self) -> float | None:
        """The share of completed ones among completed and failed; None without any."""
        finished = self.completed + self.failed
        return self.completed / finished if finished else None

    @property
    def average_wait_seconds(self) -> float | None:
        """The mean of the waits; None without any."""
        return self.wait_seconds / self.wait.count if self.wait.count else None

    @property
    def average_run_seconds(self) -> float | None:
        """The mean of the durations; None without any."""
        return self.run_seconds / self.run.count if self.run.count else None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSums:
    """The sums of a task in a window; the names are None once it is gone."""

    task_id: UUID
    task: str | None
    workspace: str | None
    sums: Sums


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSums:
    """The sums of a queue in a window."""

    queue: str
    sums: Sums


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What ended from `since` until `until`, by the database's clock.

    `since` is rounded down to a whole minute, hour or day. `behind_seconds` is the age of the
    oldest end that is not counted yet; None if all are.
    """

    since: datetime
    until: datetime
    grain: Grain
    behind_seconds: float | None
    sums: Sums
    tasks: Sequence[TaskSums]
    """Those with the most ends first."""
    queues: Sequence[QueueSums]

    @property
    def seconds(self) -> float:
        """The length of the window."""
        return max((self.until - self.since).total_seconds(), 1.0)

    def per_minute(self, count: int) -> float:
        """Return the rate of something that was counted in the window."""
        return count * 60 / self.seconds
