"""What doctor says of workers, queues and messages."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

from celeriac.domain.doctor import Code, Finding, failed, ok, warning
from celeriac.domain.operations import WorkerRow
from celeriac.kit.units import size
from celeriac.kit.words import counted


def judge_workers(found: Sequence[WorkerRow], waiting: Mapping[str, int]) -> Iterator[Finding]:
    """Judge the live workers, and the queues in which so many executions wait."""
    if not found:
        yield warning(Code.WORKERS, "none is alive", "Start one: `celeriac worker`.")
        return
    alone = all(each.consuming is False or each.paused for each in found)
    for each in found:
        yield _judge_worker(each, alone=alone)
        for lack in each.lacks:
            yield warning(
                Code.WORKERS,
                f"{each.hostname} can't run everything: {lack}",
                "Other workers may have it. Correct it, then restart this worker.",
            )
    yield from _judge_messages(found)
    yield from _judge_queues(waiting, found)


def _judge_worker(worker: WorkerRow, *, alone: bool) -> Finding:
    who = f"{worker.hostname} (process {worker.pid}, {worker.pool})"
    if worker.paused:
        return warning(
            Code.WORKERS,
            f"{who} is paused, and runs {counted(worker.running, 'execution')}",
            f"`celeriac resume worker {worker.hostname}` lets it go on.",
        )
    if worker.consuming is False:
        judge = failed if alone else warning
        return judge(
            Code.WORKERS,
            f"{who} is alive and takes no messages",
            "It is stopping, or its broker is away; see its log.",
        )
    return ok(
        Code.WORKERS,
        f"{who}: {worker.running} running, {counted(worker.slots, 'slot')} and "
        f"{counted(worker.coroutines, 'coroutine')}, "
        f"{size(worker.memory_bytes)}{_confined(worker)}",
    )


def _confined(worker: WorkerRow) -> str:
    if worker.confinement in {None, "none"}:
        return ""
    return f"; its agents are confined by {worker.confinement}"


def _judge_messages(found: Sequence[WorkerRow]) -> Iterator[Finding]:
    # the children of a prefork worker all report the counts of their one consumer
    dropped = {worker.hostname: worker.messages_dropped for worker in found}
    unknown: dict[str, datetime] = {}
    for worker in found:
        for name, at in worker.unknown_seen_at().items():
            unknown[name] = max(at, unknown.get(name, at))
    if sum(dropped.values()):
        yield warning(
            Code.MESSAGES,
            f"{counted(sum(dropped.values()), 'message')} dropped for being no task",
            "Look for message.dropped in the workers' log; something else writes into the queues.",
        )
    if unknown:
        yield warning(
            Code.MESSAGES,
            "of tasks that a worker doesn't know came in the last five minutes: "
            + ", ".join(
                f"{name} (last {at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC)"
                for name, at in sorted(unknown.items())
            ),
            "Start a worker that loads their module: `celeriac worker --include MODULE`.",
        )


def _judge_queues(waiting: Mapping[str, int], found: Sequence[WorkerRow]) -> Iterator[Finding]:
    if any(not worker.queues for worker in found):
        return  # a worker of an older release, which doesn't report its queues
    served = {queue for worker in found for queue in worker.queues}
    for queue, count in waiting.items():
        if queue not in served:
            yield warning(
                Code.QUEUES,
                f"{counted(count, 'execution')} queued in {queue!r}, to which no worker listens",
                f"Start one: `celeriac worker -Q {queue}`.",
            )
