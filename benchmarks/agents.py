"""The agents that are measured: they do nothing, or next to nothing, or wait."""

import asyncio

from celeriac.agents.python.functions import agent


@agent("benchmark-noop")
async def noop() -> None:
    """Do nothing."""


@agent("benchmark-length")
async def length(text: str) -> int:
    """Return the length of a text."""
    return len(text)


@agent("benchmark-wait")
async def wait(seconds: float) -> float:
    """Wait without holding anything up, as an agent waits for its model."""
    await asyncio.sleep(seconds)
    return seconds
