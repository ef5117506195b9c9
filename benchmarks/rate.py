"""(b) Accept latency of `POST /tasks/{id}/execute` at a fixed rate.

Open loop: each request has its time, whatever became of the ones before it, and its latency counts
from that time. So a stall costs all that should have been sent in it, as it does in real life.
"""

import asyncio
from contextlib import AsyncExitStack

import httpx

from benchmarks.figures import Figure, percentiles
from benchmarks.scale import Scale
from benchmarks.stage import Stage

_CONNECTIONS = 8
_LATE_SECONDS = 0.005


def measure(stage: Stage, api: str, scale: Scale) -> Figure:
    """Send `scale.rate` requests a second for `scale.seconds` to `api`, with a worker at work."""
    url = f"{api}/api/v1/tasks/{stage.tasks['noop']}/execute"
    asyncio.run(_send(stage, url, rate=scale.rate, seconds=min(2.0, scale.seconds)))
    latencies, late = asyncio.run(_send(stage, url, rate=scale.rate, seconds=scale.seconds))
    stage.watch.wait_until_idle()
    return Figure(
        "How long until `execute` has accepted, at a fixed rate?",
        {
            "requests_per_second": scale.rate,
            "connections": _CONNECTIONS,
            "accepted": percentiles(latencies),
            "sent_late": late,
        },
    )


async def _send(stage: Stage, url: str, *, rate: float, seconds: float) -> tuple[list[float], int]:
    """Return the latencies in seconds, and the number of requests sent more than 5 ms late."""
    loop = asyncio.get_running_loop()
    latencies: list[float] = []
    late = 0

    async def send(client: httpx.AsyncClient, due: float) -> None:
        nonlocal late
        late += loop.time() - due > _LATE_SECONDS
        answer = await client.post(url, content=b"{}")
        latencies.append(loop.time() - due)
        answer.raise_for_status()

    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        clients = [
            await stack.enter_async_context(
                httpx.AsyncClient(headers=stage.headers, timeout=30, trust_env=False)
            )
            for _ in range(_CONNECTIONS)
        ]
        begin = loop.time()
        for number in range(int(rate * seconds)):
            due = begin + number / rate
            await asyncio.sleep(due - loop.time())
            group.create_task(send(clients[number % _CONNECTIONS], due))
    return latencies, late
