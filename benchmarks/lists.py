"""(g) One page of a list of executions: how long until it is received whole."""

import time

import httpx

from benchmarks.figures import Figure, Target, percentiles
from benchmarks.scale import Scale
from benchmarks.stage import Stage
from celeriac.domain.executions.model import BULKY, SubmitRequest

_REQUESTS = 20
_GOAL_MS = 60.0


def measure(stage: Stage, api: str, scale: Scale) -> Figure:
    """Request the newest `scale.listed` executions, one request after the other."""
    request = SubmitRequest(task_id=stage.tasks["length"])
    items = [{"text": f"Item {number}."} for number in range(scale.listed)]
    stage.container.submit.batch(stage.actor, request, items)
    stage.container.dispatch.send_due()
    stage.watch.wait_until_idle()
    address = f"{api}/api/v1/task-executions"
    with httpx.Client(headers=stage.headers, timeout=60, trust_env=False) as client:

        def received(include: tuple[str, ...]) -> list[float]:
            seconds = []
            for _ in range(_REQUESTS + 1):  # the first one warms up
                begin = time.perf_counter()
                answer = client.get(address, params={"limit": scale.listed, "include": include})
                seconds.append(time.perf_counter() - begin)
                if len(answer.raise_for_status().json()["items"]) != scale.listed:
                    raise RuntimeError(f"The page is short: {answer.text[:500]}")
            return seconds[1:]

        summaries, whole = percentiles(received(())), percentiles(received(BULKY))
    return Figure(
        "How long does one page of a list of executions take?",
        {"executions": scale.listed, "summaries": summaries, "all_fields": whole},
        [Target("summaries: p50_ms", summaries["p50_ms"], _GOAL_MS)],
    )
