"""Agents of the chaos run. Each appends what it does to a file, the outside effect that is checked.

A line is `token execution attempt pid step release time`, appended by one write.
"""

import asyncio
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import celeriac
from celeriac import ChildContext, PermanentError, RetryableError

if TYPE_CHECKING:
    from celeriac import AgentContext

PROVIDER, MODEL = "chaos", "small"
CALL_TOKENS = (10, 5)
"""Input and output tokens of each model call."""

BEGIN, END = "begin", "end"
RELEASES = 6
HOLD_SECONDS = 20.0


@celeriac.agent("chaos noop")
async def noop(ctx: "AgentContext", token: str, diary: str) -> dict[str, Any]:
    _begin(ctx, token, diary)
    return _done(ctx, token, diary)


@celeriac.agent("chaos plain")
def plain(ctx: ChildContext, token: str, diary: str, times: int, pause: float) -> dict[str, Any]:
    """As `talk`, in a child process."""
    _begin(ctx, token, diary)
    for number in range(1, times + 1):
        ctx.emit("said", {"number": number})
        time.sleep(pause)
    return _done(ctx, token, diary)


@celeriac.agent("chaos talk")
async def talk(
    ctx: "AgentContext", token: str, diary: str, times: int, pause: float
) -> dict[str, Any]:
    """Emit events and record model calls, each `times` times."""
    _begin(ctx, token, diary)
    for number in range(1, times + 1):
        await ctx.emit("said", {"number": number})
        await ctx.progress(number, times)
        await ctx.charge(
            provider=PROVIDER,
            model=MODEL,
            input_tokens=CALL_TOKENS[0],
            output_tokens=CALL_TOKENS[1],
        )
        await asyncio.sleep(pause)
    return _done(ctx, token, diary)


@celeriac.agent("chaos limited")
async def limited(
    ctx: "AgentContext", token: str, diary: str, line: str, pause: float
) -> dict[str, Any]:
    """Take a moment; limits say how many do so at once."""
    _begin(ctx, token, diary)
    await asyncio.sleep(pause)
    return _done(ctx, token, diary) | {"line": line}


@celeriac.agent("chaos stumble")
async def stumble(ctx: "AgentContext", token: str, diary: str, times: int) -> dict[str, Any]:
    """Fail in the first `times` attempts."""
    _begin(ctx, token, diary)
    if ctx.attempt <= times:
        raise RetryableError(f"attempt {ctx.attempt} stumbles")
    return _done(ctx, token, diary)


@celeriac.agent("chaos refuse")
async def refuse(ctx: "AgentContext", token: str, diary: str) -> None:
    _begin(ctx, token, diary)
    raise PermanentError("never")


@celeriac.agent("chaos ask")
async def ask(ctx: "AgentContext", token: str, diary: str) -> dict[str, Any]:
    """Ask a person in place, and return the answer."""
    _begin(ctx, token, diary)
    answer = await ctx.ask(token)
    return _done(ctx, token, diary) | {"answer": answer.value}


@celeriac.agent("chaos hold")
async def hold(ctx: "AgentContext", token: str, diary: str) -> dict[str, Any]:
    """Wait to be cancelled."""
    _begin(ctx, token, diary)
    await asyncio.sleep(HOLD_SECONDS)
    return _done(ctx, token, diary)


@celeriac.agent("chaos hold plain")
def hold_plain(ctx: ChildContext, token: str, diary: str) -> dict[str, Any]:
    """As `hold`, in a child process."""
    _begin(ctx, token, diary)
    time.sleep(HOLD_SECONDS)
    return _done(ctx, token, diary)


def _release(number: int) -> Any:
    async def run(ctx: "AgentContext", token: str, diary: str) -> dict[str, Any]:
        _begin(ctx, token, diary, number)
        return _done(ctx, token, diary, number)

    run.__name__ = run.__qualname__ = f"release_{number}"
    return celeriac.agent(f"chaos release {number}")(run)


release_0, release_1, release_2, release_3, release_4, release_5 = map(_release, range(RELEASES))
"""Releases of one agent: each says in its result and in the diary which one it is."""


def _begin(ctx: "AgentContext | ChildContext", token: str, diary: str, release: int = -1) -> None:
    _write(ctx, token, diary, BEGIN, release)


def _done(
    ctx: "AgentContext | ChildContext", token: str, diary: str, release: int = -1
) -> dict[str, Any]:
    _write(ctx, token, diary, END, release)
    return {"token": token, "attempt": ctx.attempt, "release": release}


def _write(
    ctx: "AgentContext | ChildContext", token: str, diary: str, step: str, release: int
) -> None:
    line = (
        f"{token} {ctx.execution_id} {ctx.attempt} {os.getpid()} {step} {release} {time.time()}\n"
    )
    handle = os.open(Path(diary), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)
