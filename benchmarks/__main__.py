"""`python -m benchmarks`: measure, and print one JSON document."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import (
    admission,
    batch,
    cancels,
    comparison,
    confinement,
    deliveries,
    fan_ins,
    flows,
    history,
    idle,
    lists,
    machine,
    planner,
    rate,
    running,
    throughput,
    turns,
    waits,
)
from benchmarks.figures import Figure
from benchmarks.scale import FULL, QUICK, Scale
from benchmarks.stage import Stage, stage

_ALONE: dict[str, Callable[[Stage, Scale], Figure]] = {
    "throughput": throughput.measure,
    "peers": comparison.measure,
    "flows": flows.measure,
    "fan-ins": fan_ins.measure,
    "waits": waits.measure,
    "running": running.measure,
    "cancels": cancels.measure,
}
"""These start workers of their own."""

_OVER_HTTP: dict[str, Callable[[Stage, str, Scale], Figure]] = {
    "rate": rate.measure,
    "idle": idle.measure,
    "batch": batch.measure,
    "lists": lists.measure,
}
"""These share an API and a worker."""

NAMES = (
    "throughput",
    "peers",
    "rate",
    "idle",
    "batch",
    "lists",
    "flows",
    "fan-ins",
    "waits",
    "running",
    "cancels",
)
_SHAPES = (flows.CHAIN, flows.FAN_OUT, flows.FAN_IN)
_FIELDS = [
    *(shape.replace("-", "_") for shape in _SHAPES),
    "counted",
    "waits",
    "wait_seconds",
    "rounds",
    "running_seconds",
]
SCALE = "scale"
TURNS = "turns"
LIMITS = "limits"
DELIVERIES = "deliveries"
PLANNER = "planner"
CONFINEMENT = "confinement"
_NAMED_ONLY = (SCALE, TURNS, LIMITS, DELIVERIES, PLANNER, CONFINEMENT)
"""These take long or need no programs: measured only if they are named."""


def main() -> None:
    """Run the named benchmarks, or all."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure Celeriac and print one JSON document; docs/benchmarks.md explains it. "
        "Targets are reported, not enforced.",
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="name",
        help=f"{', '.join(NAMES)}; all of these if none is given; {', '.join(_NAMED_ONLY)}",
    )
    parser.add_argument(
        "--sizes", type=int, nargs="+", help=f"{SCALE}: executions of history; 10000 1000000"
    )
    for shape in _SHAPES:
        parser.add_argument(
            f"--{shape}", type=int, metavar="NUMBER", help=f"flows: no-ops of one {shape}"
        )
    parser.add_argument("--counted", type=int, metavar="NUMBER", help="fan-ins: items of the map")
    parser.add_argument("--waits", type=int, metavar="NUMBER", help="waits: executions")
    parser.add_argument("--wait-seconds", type=float, metavar="NUMBER", help="waits: of each")
    parser.add_argument("--rounds", type=int, metavar="NUMBER", help="runs of each side")
    parser.add_argument(
        "--running-seconds", type=float, metavar="NUMBER", help="running: how long it is watched"
    )
    parser.add_argument(
        "--quick", action="store_true", help="tiny counts: shows that all runs, not how fast"
    )
    parser.add_argument("--output", type=Path, help="write the document here, too")
    arguments = parser.parse_args()
    known = (*NAMES, *_NAMED_ONLY)
    unknown = set(arguments.names) - set(known)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    scale = QUICK if arguments.quick else FULL
    given = {name: value for name in _FIELDS if (value := getattr(arguments, name)) is not None}
    document = run(
        arguments.names or NAMES, dataclasses.replace(scale, **given), sizes=arguments.sizes
    )
    text = json.dumps(document, indent=2)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n", encoding="utf-8")


def run(
    names: Collection[str], scale: Scale, *, sizes: Sequence[int] | None = None
) -> dict[str, Any]:
    """Return the document: the machine, the commit, and each figure beside its targets."""
    quick = scale.executions == QUICK.executions
    about = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": machine.commit(),
        "quick": quick,
        "machine": machine.describe(),
    }
    figures: dict[str, Figure] = {}
    if set(names) - set(_NAMED_ONLY):
        with stage() as ready:
            figures.update(_measured(ready, names, scale))
    if SCALE in names:
        default = history.QUICK_SIZES if quick else history.SIZES
        figures[SCALE] = history.measure(sizes or default, quick=quick)
    if TURNS in names:
        figures[TURNS] = turns.measure(quick=quick)
    if LIMITS in names:
        figures[LIMITS] = admission.measure(quick=quick)
    if DELIVERIES in names:
        figures[DELIVERIES] = deliveries.measure(quick=quick)
    if PLANNER in names:
        figures[PLANNER] = planner.measure(quick=quick)
    if CONFINEMENT in names:
        figures[CONFINEMENT] = confinement.measure(quick=quick)
    order = [name for name in (*NAMES, *_NAMED_ONLY) if name in figures]
    return about | {"figures": {name: figures[name].described() for name in order}}


def _measured(ready: Stage, names: Collection[str], scale: Scale) -> Iterator[tuple[str, Figure]]:
    for name in [name for name in _ALONE if name in names]:
        _say(name)
        yield name, _ALONE[name](ready, scale)
    over_http = [name for name in _OVER_HTTP if name in names]
    if over_http:
        with (
            ready.programs.beat(),
            ready.programs.worker(pool="threads", concurrency=8),
            ready.programs.api() as url,
        ):
            for name in over_http:
                _say(name)
                yield name, _OVER_HTTP[name](ready, url, scale)


def _say(name: str) -> None:
    print(f"measuring {name} ...", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
