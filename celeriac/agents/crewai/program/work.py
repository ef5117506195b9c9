"""Runs the crew and sends its result, or its error, to the worker."""

import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from .failures import CrewStopError, report
from .progress import Channel, Progress

_FAILED = 1


def work(start: Mapping[str, Any], commands: BinaryIO, answers: int) -> NoReturn:
    """Run the crew that the `start` message holds, and end the process.

    `commands` holds the worker's later messages. Exactly one `result` or `error` is sent to the
    descriptor `answers`, unless the process is killed.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    for name in ("HOME", "TMPDIR"):
        Path(os.environ[name]).mkdir(parents=True, exist_ok=True)
    channel = Channel(answers, commands)
    crew = start["crew"]
    progress = Progress(channel, len(crew["graph"]["tasks"]))
    channel.listen(lambda: _end_at_soft_limit(channel, progress))
    code = 0
    try:
        value = _run(crew, progress)
    except BaseException as error:  # noqa: BLE001 - sent to the worker
        code = _FAILED
        channel.send(report(_described(error, start), progress.place), last=True)
    else:
        cut_off = progress.cut_off and isinstance(value, str)
        channel.send({"type": "result", "value": value, "truncated": cut_off}, last=True)
    sys.stdout.flush()
    sys.stderr.flush()
    # The result is out: threads and exit handlers of libraries are not waited for.
    os._exit(code)


def _run(crew: Mapping[str, Any], progress: Progress) -> Any:
    import crewai

    # CrewAI's telemetry takes these even where it is off; a cancelled crew must end at once.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    from .translate import CrewBuilder, json_of, log_tools

    log_tools(progress)
    graph = crew["graph"]
    built = CrewBuilder(crew, progress).crew()
    progress.event(
        "crew_started",
        {
            "process": graph["process"],
            "tasks": [task["id"] for task in graph["tasks"]],
            "agents": {agent["id"]: agent["model"] for agent in graph["agents"]},
            "crewai": crewai.__version__,
        },
    )
    began = time.monotonic()
    output = built.kickoff()
    progress.event("crew_completed", {"seconds": round(time.monotonic() - began, 3)})
    return json_of(output.raw) if graph["tasks"][-1]["output_schema"] else output.raw


def _described(error: BaseException, start: Mapping[str, Any]) -> BaseException:
    if isinstance(error, MemoryError):
        # The hard limit is higher, to leave room for the report (`celeriac.kit.child_bootstrap`).
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))
        stop = CrewStopError(
            "memory_limit", f"memory limit of {start['crew']['memory_mb']} MB exceeded"
        )
        stop.__cause__ = error
        return stop
    return error


def _end_at_soft_limit(channel: Channel, progress: Progress) -> None:
    """Report the limit and exit; a crew has no code for cleanup."""
    limit = CrewStopError(
        "soft_time_limit", "The crew ran past its soft time limit.", retryable=True
    )
    if channel.send(report(limit, progress.place), last=True):
        os._exit(_FAILED)
