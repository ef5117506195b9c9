"""Costs of one execution: processor time by process, commands and statements."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import psutil
from redis import Redis
from sqlalchemy import Engine, event

_OWN = ("info", "client|setinfo", "client|setname", "hello", "auth", "select")
"""Commands of the benchmark itself and of new connections."""


class Meter:
    """Adds up the work of some processes and of Valkey over several runs."""

    def __init__(self, processes: Mapping[str, psutil.Process], valkey: Redis) -> None:
        """Watch `processes` with their children, and this process, the submitter, without."""
        self._processes = processes
        self._valkey = valkey
        self._seconds = dict.fromkeys(("submitter", *processes), 0.0)
        self._commands: Counter[str] = Counter()
        self._reads = 0
        self._executions = 0

    def run(self, work: Callable[[], object], executions: int) -> None:
        """Call `work` and count its costs."""
        seconds, commands, reads = self._processor(), self._called(), self._round_trips()
        work()
        self._reads += self._round_trips() - reads
        self._commands.update(self._called() - commands)
        for name, after in self._processor().items():
            self._seconds[name] += after - seconds[name]
        self._executions += executions

    def per_execution(self) -> dict[str, Any]:
        """Return milliseconds by process, Valkey's round trips and its commands."""
        count = self._executions
        return {
            "processor_ms": {
                name: round(spent * 1000 / count, 2) for name, spent in self._seconds.items()
            },
            "valkey_round_trips": round(self._reads / count, 2),
            "valkey_commands": {
                name: round(calls / count, 2)
                for name, calls in self._commands.most_common()
                if calls >= count / 100
            },
        }

    def _processor(self) -> dict[str, float]:
        others = {name: _seconds_of(each) for name, each in self._processes.items()}
        return {"submitter": time.process_time(), **others}

    def _called(self) -> "Counter[str]":
        stats = self._valkey.info("commandstats").items()
        calls = {name.removeprefix("cmdstat_"): each["calls"] for name, each in stats}
        return Counter({name: count for name, count in calls.items() if name not in _OWN})

    def _round_trips(self) -> int:
        """Reads from the sockets of clients: one for a pipeline, one for a single command."""
        return int(self._valkey.info("stats")["total_reads_processed"])


class Statements:
    """Counts the statements that one engine sends to PostgreSQL."""

    def __init__(self, engine: Engine) -> None:
        """Count from now on."""
        self.count = 0
        event.listen(engine, "before_cursor_execute", self._executed)

    def _executed(self, *_: object) -> None:
        self.count += 1


def _seconds_of(process: psutil.Process) -> float:
    """Return the processor time of a process and all its children, also those that have ended."""
    total = 0.0
    for each in (process, *process.children(recursive=True)):
        try:
            times = each.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
        if each == process:
            total += times.children_user + times.children_system
    return total
