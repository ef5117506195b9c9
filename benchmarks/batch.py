"""(d) One `execute-batch` over HTTP: how fast it is accepted, and how long until all are done."""

import json
import statistics
import time

import httpx

from benchmarks.figures import Figure, Target
from benchmarks.scale import Scale
from benchmarks.stage import Stage

_GOAL_PER_SECOND = 5000.0


def measure(stage: Stage, api: str, scale: Scale) -> Figure:
    """Send `scale.rounds` batches of texts, each after the one before is done."""
    accepted: list[float] = []
    completed: list[float] = []
    items = [{"text": f"Item {number} of a batch."} for number in range(scale.batch)]
    body = json.dumps({"items": items}).encode()
    path = f"/api/v1/tasks/{stage.tasks['length']}/execute-batch"
    with httpx.Client(base_url=api, headers=stage.headers, timeout=60, trust_env=False) as client:
        client.post(path, json={"items": items[:1]}).raise_for_status()
        stage.watch.wait_until_idle()
        for _ in range(scale.rounds):
            begin = time.perf_counter()
            answer = client.post(path, content=body).raise_for_status()
            accepted.append(time.perf_counter() - begin)
            stage.watch.wait_until_idle()
            completed.append(time.perf_counter() - begin)
            if answer.json()["count"] != scale.batch:
                raise RuntimeError(f"Not all were accepted: {answer.text[:500]}")
    rate = round(scale.batch / statistics.median(accepted))
    return Figure(
        "How fast is a batch accepted, and when is all of it done?",
        {
            "items": scale.batch,
            "request_bytes": len(body),
            "accepted_seconds": [round(seconds, 3) for seconds in accepted],
            "completed_seconds": [round(seconds, 2) for seconds in completed],
            "accepted_per_second": rate,
            "completed_per_second": round(scale.batch / statistics.median(completed)),
        },
        [Target("accepted_per_second", rate, _GOAL_PER_SECOND, more_is_better=True)],
    )
