"""`python -m benchmarks`: measure, and print one JSON document."""

import argparse
import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import batch, idle, machine, rate, throughput, waits
from benchmarks.figures import Figure
from benchmarks.scale import FULL, QUICK, Scale
from benchmarks.stage import Stage, stage

MEASUREMENTS: dict[str, Callable[[Stage, Scale], Figure]] = {
    "throughput": throughput.measure,
    "rate": rate.measure,
    "idle": idle.measure,
    "batch": batch.measure,
    "waits": waits.measure,
}


def main() -> None:
    """Run the measurements that were named, or all."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure Celeriac and print one JSON document; docs/benchmarks.md explains it. "
        "Targets are reported, not enforced.",
    )
    parser.add_argument(
        "names", nargs="*", metavar="name", help=f"{', '.join(MEASUREMENTS)}; all if none is given"
    )
    parser.add_argument(
        "--quick", action="store_true", help="tiny counts: shows that all runs, not how fast"
    )
    parser.add_argument("--output", type=Path, help="write the document here, too")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(MEASUREMENTS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(MEASUREMENTS)}")
    document = run(arguments.names or list(MEASUREMENTS), quick=arguments.quick)
    text = json.dumps(document, indent=2)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n", encoding="utf-8")


def run(names: list[str], *, quick: bool) -> dict[str, Any]:
    """Return the document: the machine, the commit, and each figure beside its targets."""
    scale = QUICK if quick else FULL
    document: dict[str, Any] = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": machine.commit(),
        "quick": quick,
        "machine": machine.describe(),
        "figures": {},
    }
    with stage() as ready:
        for name in names:
            print(f"measuring {name} ...", file=sys.stderr, flush=True)
            document["figures"][name] = MEASUREMENTS[name](ready, scale).described()
    return document


if __name__ == "__main__":
    main()
