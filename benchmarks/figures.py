"""The results of a benchmark: values and targets."""

import operator
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Target:
    """A goal for one value; it is reported, never enforced."""

    value: str
    measured: float
    goal: float
    more_is_better: bool = False

    def described(self) -> dict[str, Any]:
        """Return it as JSON."""
        better = operator.ge if self.more_is_better else operator.le
        return {
            "value": self.value,
            "goal": f"{'at least' if self.more_is_better else 'at most'} {self.goal:g}",
            "measured": self.measured,
            "met": better(self.measured, self.goal),
        }


@dataclass(frozen=True, slots=True)
class Figure:
    """The outcome of one measurement."""

    question: str
    measured: Mapping[str, Any]
    targets: Sequence[Target] = ()

    def described(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "question": self.question,
            "measured": self.measured,
            "targets": [target.described() for target in self.targets],
        }


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Return median, 99th percentile and maximum in milliseconds."""
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {
        "p50_ms": round(cuts[49] * 1000, 2),
        "p99_ms": round(cuts[98] * 1000, 2),
        "max_ms": round(max(seconds) * 1000, 2),
        "samples": len(seconds),
    }
