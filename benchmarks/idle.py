"""(c) From accepted to running on an idle system, one execution at a time.

By the rows: from `created_at` to `started_at`, both by the database's clock. By the client: from
sending the request until the `started` event has come down the stream; and, with one request in
`sync` mode, until it has the result.
"""

import random
import time

import httpx
from httpx_sse import connect_sse

from benchmarks.figures import Figure, Target, percentiles
from benchmarks.scale import Scale
from benchmarks.stage import Stage

_GOAL_MS = 25.0
_PAUSE_SECONDS = (0.05, 0.15)
_WARM_UP = 5


def measure(stage: Stage, api: str, scale: Scale) -> Figure:
    """Run `scale.samples` executions each way, with irregular pauses."""
    started: list[float] = []
    answered: list[float] = []
    ids: list[str] = []
    execute = f"/api/v1/tasks/{stage.tasks['noop']}/execute"
    with httpx.Client(base_url=api, headers=stage.headers, timeout=30, trust_env=False) as client:
        for number in range(-_WARM_UP, scale.samples):
            time.sleep(random.uniform(*_PAUSE_SECONDS))
            execution_id, seconds = _until_started(client, execute)
            time.sleep(random.uniform(*_PAUSE_SECONDS))
            sync_seconds = _until_answered(client, execute)
            if number >= 0:
                ids.append(execution_id)
                started.append(seconds)
                answered.append(sync_seconds)
    rows = stage.watch.rows(
        "SELECT extract(epoch FROM started_at - created_at)::float8,"
        " extract(epoch FROM completed_at - created_at)::float8"
        " FROM executions WHERE id = ANY(CAST(:ids AS uuid[]))",
        ids=ids,
    )
    running = percentiles([row[0] for row in rows])
    return Figure(
        "How long from accepted to running on an idle system?",
        {
            "created_to_started": running,
            "created_to_completed": percentiles([row[1] for row in rows]),
            "request_to_started_event": percentiles(started),
            "request_to_result_in_sync_mode": percentiles(answered),
        },
        [Target("created_to_started: p50_ms", running["p50_ms"], _GOAL_MS)],
    )


def _until_started(client: httpx.Client, execute: str) -> tuple[str, float]:
    begin = time.perf_counter()
    answer = client.post(execute, content=b"{}").raise_for_status()
    execution_id: str = answer.json()["execution_id"]
    seconds = 0.0
    with connect_sse(client, "GET", f"/api/v1/task-executions/{execution_id}/stream") as stream:
        for event in stream.iter_sse():
            if event.event == "started":
                seconds = time.perf_counter() - begin
    return execution_id, seconds


def _until_answered(client: httpx.Client, execute: str) -> float:
    begin = time.perf_counter()
    answer = client.post(execute, content=b'{"execution_mode": "sync"}').raise_for_status()
    seconds = time.perf_counter() - begin
    if answer.json()["status"] != "completed":
        raise RuntimeError(f"An execution ended otherwise than it should: {answer.text}")
    return seconds
