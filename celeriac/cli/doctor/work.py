"""Checks of workers, queues, API, key and model server."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import httpx

from celeriac.cli.core.output import CommandError, ExitCode, moment, size
from celeriac.cli.core.server import find_server, open_database
from celeriac.cli.doctor.findings import Finding, failed, ok, warning
from celeriac.cli.doctor.servers import ALIVE_SECONDS
from celeriac.client import Client, ClientError
from celeriac.db import migrate, workers
from celeriac.db.executions import queries
from celeriac.domain.errors import CeleriacError
from celeriac.domain.operations import WorkerRow
from celeriac.kit.words import counted
from celeriac.settings import Settings

_TIMEOUT = 5.0
_API_CURE = "Start it: `celeriac api`."


def check_workers(settings: Settings) -> Iterator[Finding]:
    """Check which worker processes are alive, by their rows in the database."""
    try:
        with open_database(settings) as database, database.autocommit() as connection:
            if not migrate.schema(connection).usable:
                yield failed("workers", "unknown without the schema of this release", None)
                return
            found = workers.live(connection, within_seconds=ALIVE_SECONDS)
            waiting = queries.waiting_counts(connection)
    except CeleriacError:
        yield failed("workers", "unknown without the database", None)
        return
    if not found:
        yield warning("workers", "none is alive", "Start one: `celeriac worker`.")
        return
    alone = all(each.consuming is False and not each.paused for each in found)
    for each in found:
        yield _judge_worker(each, alone=alone)
        for lack in each.lacks:
            yield warning(
                "workers",
                f"{each.hostname} can't run everything: {lack}",
                "Other workers may have it. Correct it, then restart this worker.",
            )
    yield from _judge_messages(found)
    yield from _judge_queues(waiting, found)


def _judge_worker(worker: WorkerRow, *, alone: bool) -> Finding:
    who = f"{worker.hostname} (process {worker.pid}, {worker.pool})"
    if worker.paused:
        return warning(
            "workers",
            f"{who} is paused, and runs {counted(worker.running, 'execution')}",
            f"`celeriac resume worker {worker.hostname}` lets it go on.",
        )
    if worker.consuming is False:
        judge = failed if alone else warning
        return judge(
            "workers",
            f"{who} is alive and takes no messages",
            "It is stopping, or its broker is away; see its log.",
        )
    return ok(
        "workers",
        f"{who}: {worker.running} running, {counted(worker.slots, 'slot')} and "
        f"{counted(worker.coroutines, 'coroutine')}, "
        f"{size(worker.memory_bytes)}",
    )


def _judge_messages(found: Sequence[WorkerRow]) -> Iterator[Finding]:
    # the children of a prefork worker all report the counts of their one consumer
    dropped = {worker.hostname: worker.messages_dropped for worker in found}
    unknown: dict[str, datetime] = {}
    for worker in found:
        for name, at in worker.unknown_seen_at().items():
            unknown[name] = max(at, unknown.get(name, at))
    if sum(dropped.values()):
        yield warning(
            "messages",
            f"{counted(sum(dropped.values()), 'message')} dropped for being no task",
            "Look for message.dropped in the workers' log; something else writes into the queues.",
        )
    if unknown:
        yield warning(
            "messages",
            "of tasks that a worker doesn't know came in the last five minutes: "
            + ", ".join(f"{name} (last {moment(at)})" for name, at in sorted(unknown.items())),
            "Start a worker that loads their module: `celeriac worker --include MODULE`.",
        )


def _judge_queues(waiting: Mapping[str, int], found: Sequence[WorkerRow]) -> Iterator[Finding]:
    if any(not worker.queues for worker in found):
        return  # a worker of an older release, which doesn't report its queues
    served = {queue for worker in found for queue in worker.queues}
    for queue, count in waiting.items():
        if queue not in served:
            yield warning(
                "queues",
                f"{counted(count, 'execution')} queued in {queue!r}, to which no worker listens",
                f"Start one: `celeriac worker -Q {queue}`.",
            )


def check_notices(settings: Settings) -> Iterator[Finding]:
    """Check that notifications of questions to a webhook have links."""
    if settings.approvals.webhook is not None and settings.public_url is None:
        yield warning(
            "notices",
            "CELERIAC_APPROVALS_WEBHOOK receives questions without links to answer them",
            "Set CELERIAC_PUBLIC_URL, where people reach the API with a browser.",
        )


def check_api(home: Path | None, api_url: str | None, api_key: str | None) -> Iterator[Finding]:
    """Check that the API of these options, if it is known, answers and accepts the key."""
    try:
        server = find_server(home, api_url, api_key)
        with Client(server.url, api_key=server.api_key, timeout=_TIMEOUT) as client:
            ready = client.health()
            wrong = [f"{name} {found}" for name, found in ready.checks.items() if found != "ok"]
            if wrong:
                yield warning(
                    "API",
                    f"{server.url} is {ready.status}: {', '.join(wrong)}",
                    "See the findings above.",
                )
            else:
                yield ok("API", f"{server.url} answers")
            me = client.users.me()
            yield ok("API key", f"of {me.name}, {me.role.value}")
    except CommandError as error:
        yield warning("API", error.message, None)
    except ClientError as error:
        if error.status is None:
            yield failed("API", error.message, _API_CURE)
        else:
            cure = "Give a good one with --api-key or CELERIAC_API_KEY."
            yield failed("API key", error.message, cure, ExitCode.DENIED)


def check_model(settings: Settings) -> Finding:
    """Check that the server of the local model answers."""
    url = settings.local_model_url
    if url is None:
        return ok("model server", "none runs here; `celeriac up` starts one")
    try:
        with httpx.Client(trust_env=False, timeout=_TIMEOUT) as client:
            answer = client.get(f"{url}/models")
        answer.raise_for_status()
        names = ", ".join(str(each["id"]) for each in answer.json()["data"])
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        return failed(
            "model server",
            f"{url} doesn't answer as an OpenAI-compatible server does: {error}",
            "Look at its log, or correct CELERIAC_LOCAL_MODEL_URL.",
        )
    return ok("model server", f"{url} serves {names}")
