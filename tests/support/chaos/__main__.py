"""`python -m tests.support.chaos`: run executions under random faults, and print the table."""

import argparse
import json
import logging
import signal
import sys
from pathlib import Path

import structlog

from tests.support.chaos.plan import faults_of, make_plan
from tests.support.chaos.report import document, table
from tests.support.chaos.running import run, to_stderr
from tests.support.pgbouncer import is_installed

_INTERRUPTED = 130


def main() -> int:
    """Return 1 where anything was lost, doubled or otherwise wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.support.chaos",
        description="Run executions under random faults and check each of them; docs/chaos.md "
        "explains the table.",
    )
    parser.add_argument("--seed", type=int, default=1, help="the plan of faults and work")
    parser.add_argument("--executions", type=int, default=10_000)
    parser.add_argument("--minutes", type=float, default=45.0, help="begin no round after these")
    everything = ", ".join(faults_of(pooler=True))
    parser.add_argument("--faults", help=f"some of: {everything}; or none (default: all)")
    parser.add_argument(
        "--pooler",
        action="store_true",
        help="all programs reach PostgreSQL through PgBouncer, which is struck too",
    )
    parser.add_argument("--json", type=Path, help="write everything here, too")
    parser.add_argument("--plan", action="store_true", help="print the plan of faults, run nothing")
    arguments = parser.parse_args()
    known = faults_of(pooler=arguments.pooler)
    wanted = ",".join(known) if arguments.faults is None else arguments.faults
    names = [name for name in wanted.split(",") if name not in ("", "none")]
    unknown = set(names) - set(known)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    if arguments.pooler and not is_installed():
        parser.error("--pooler needs PgBouncer (Debian: apt-get install pgbouncer)")
    plan = make_plan(arguments.seed, arguments.executions, names, pooler=arguments.pooler)
    if arguments.plan:
        for each in plan.rounds:
            faults = [f"{f.name} {f.target} {f.at:g}+{f.seconds:g} s" for f in each.faults]
            count = sum(work.count for work in each.work)
            sys.stdout.write(f"{each.number + 1}: {count} executions; {'; '.join(faults)}\n")
        return 0
    # this process has parts of the product in it, whose log would stand between the rounds
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # everything is stopped on the way
    try:
        outcome = run(plan, minutes=arguments.minutes, say=to_stderr)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: everything was stopped, nothing was checked\n")
        return _INTERRUPTED
    sys.stdout.write(table(outcome) + "\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(document(outcome), indent=2) + "\n")
    return 1 if outcome.findings else 0


if __name__ == "__main__":
    sys.exit(main())
