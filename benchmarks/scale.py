"""The size of the benchmarks: enough for figures, or just enough to run each of them."""

from collections.abc import Sequence
from dataclasses import dataclass

IN_BULK = "in bulk"
ONE_BY_ONE = "one by one"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """The counts of all measurements."""

    sides: Sequence[tuple[str, str]]
    """(a) Pools, and how executions are submitted."""
    executions: int
    """(a) Executions in one run."""
    rounds: int
    """(a, d, e) Runs; the median is the result."""
    rate: float
    """(b) Requests a second."""
    seconds: float
    """(b) How long to send them."""
    samples: int
    """(c) Executions, one at a time."""
    batch: int
    """(d) Items in one request."""
    listed: int
    """(g) Executions on a page."""
    waits: int
    """(e) Executions that wait at the same time."""
    wait_seconds: float
    """(e) How long each of them waits."""
    running: int
    """(g) Executions that run at the same time."""
    running_seconds: float
    """(g) How long they are watched."""
    cancels: int
    """(f) Cancelled executions of each runner."""
    heavy_cancels: int
    """(f) The same for runners that take seconds each; 0 leaves them out."""
    chain: int
    """(i) No-ops in one chain."""
    fan_out: int
    """(i) No-ops at once, without anything after them."""
    fan_in: int
    """(i) No-ops at once, all of which one more waits for."""
    counted: int
    """(j) Items of one map that are counted down."""
    flow_rounds: int
    """(i, j) Flows of each shape and side."""


FULL = Scale(
    sides=tuple((pool, way) for pool in ("threads", "prefork") for way in (IN_BULK, ONE_BY_ONE)),
    executions=2000,
    rounds=5,
    rate=50.0,
    seconds=20.0,
    samples=200,
    batch=10_000,
    listed=500,
    waits=1000,
    wait_seconds=5.0,
    running=1000,
    running_seconds=60.0,
    cancels=50,
    heavy_cancels=20,
    chain=100,
    fan_out=1000,
    fan_in=1000,
    counted=2000,
    flow_rounds=3,
)

QUICK = Scale(
    sides=(("threads", IN_BULK), ("prefork", ONE_BY_ONE)),
    executions=40,
    rounds=1,
    rate=20.0,
    seconds=1.0,
    samples=5,
    batch=100,
    listed=20,
    waits=20,
    wait_seconds=0.2,
    running=20,
    running_seconds=2.0,
    cancels=2,
    heavy_cancels=0,
    chain=3,
    fan_out=5,
    fan_in=5,
    counted=5,
    flow_rounds=1,
)
