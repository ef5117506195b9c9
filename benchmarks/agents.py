"""The agents of the benchmarks: they do nothing, almost nothing, or wait."""

import asyncio
import subprocess
from typing import TYPE_CHECKING

from celeriac.agents.python.functions import agent

if TYPE_CHECKING:
    from celeriac import AgentContext, ChildContext


@agent("benchmark-noop")
async def noop() -> None:
    """Do nothing."""


@agent("benchmark-length")
async def length(text: str) -> int:
    """Return the length of a text."""
    return len(text)


@agent("benchmark-wait")
async def wait(seconds: float) -> float:
    """Wait without blocking, as an agent waits for its model."""
    await asyncio.sleep(seconds)
    return seconds


@agent("benchmark-sequence", durable=True)
async def sequence(ctx: "AgentContext", count: int) -> None:
    """Run so many no-ops, one after the other."""
    for _ in range(count):
        await ctx.run("noop", {})


@agent("benchmark-spread", durable=True)
async def spread(ctx: "AgentContext", count: int) -> None:
    """Run so many no-ops at once."""
    await ctx.map("noop", [{}] * count)


@agent("benchmark-work")
async def work(ctx: "AgentContext") -> None:
    """Report progress, then wait to be stopped."""
    await ctx.progress(0)
    await asyncio.Event().wait()


@agent("benchmark-plain-work")
def plain_work(ctx: "ChildContext") -> None:
    """Do the same in a child process that has started another one."""
    with subprocess.Popen(["/bin/sleep", "600"]) as child:
        ctx.progress(0)
        child.wait()


@agent("benchmark-plain-noop")
def plain_noop(ctx: "ChildContext") -> None:
    """Report progress from a child process, and end."""
    ctx.progress(0)
