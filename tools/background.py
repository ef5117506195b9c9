"""Start, and stop by their own pid, processes in the background: `make run-worker-bg`, `make stop`.

A record has the pid and the start time of a process, so that another process with the same pid is
never signalled. The output of a process goes to a file beside its record.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import psutil

GRACE_SECONDS = 60
"""Seconds that `stop` waits; more than a worker gives its running executions."""


def find(record: Path) -> psutil.Process | None:
    """Return the process of `record`, or None where it has ended."""
    try:
        known = json.loads(record.read_text())
        process = psutil.Process(known["pid"])
        alive = process.create_time() == known["started"]
    except (FileNotFoundError, psutil.NoSuchProcess):
        return None
    return process if alive and process.status() != psutil.STATUS_ZOMBIE else None


def start(directory: Path, name: str, command: list[str]) -> None:
    """Start `command` in a session of its own, and record it as `name`."""
    record = directory / f"{name}.json"
    running = find(record)
    if running is not None:
        sys.exit(f"{name} runs already (pid {running.pid}); make stop ends it")
    directory.mkdir(parents=True, exist_ok=True)
    output = directory / f"{name}.out"
    with output.open("ab") as stream:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    started = psutil.Process(child.pid).create_time()
    record.write_text(json.dumps({"pid": child.pid, "started": started}))
    print(f"{name} started (pid {child.pid}), output in {output}")


def stop(directory: Path) -> None:
    """Stop every recorded process, and wait until it has ended."""
    running = {}
    for record in sorted(directory.glob("*.json")):
        process = find(record)
        if process is None:
            record.unlink()
            print(f"{record.stem} had ended before")
        else:
            process.terminate()
            running[record] = process
    stubborn = psutil.wait_procs(running.values(), timeout=GRACE_SECONDS)[1]
    for record, process in running.items():
        if process not in stubborn:
            record.unlink()
            print(f"{record.stem} stopped")
    if stubborn:
        pids = ", ".join(str(process.pid) for process in stubborn)
        sys.exit(f"still running after {GRACE_SECONDS} s: {pids}")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, required=True, help="where records are kept")
    actions = parser.add_subparsers(dest="action", required=True)
    starting = actions.add_parser("start", help="start a command in the background")
    starting.add_argument("name")
    starting.add_argument("command", nargs="+", help="after --")
    actions.add_parser("stop", help="stop all that were started")
    options = parser.parse_args()
    if options.action == "start":
        start(options.directory, options.name, options.command)
    else:
        stop(options.directory)


if __name__ == "__main__":
    main()
