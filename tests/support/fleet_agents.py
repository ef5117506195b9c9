"""Agents for tests with real workers; they talk to the test through files.

Every one that takes a `diary` first writes a line `attempt pid` into it, so that a test can see
who ran and how often.
"""

import asyncio
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import celeriac
from celeriac import ChildContext, PermanentError, RetryableError

if TYPE_CHECKING:
    from celeriac import AgentContext

_POLL_SECONDS = 0.02


@celeriac.agent("fleet noop")
async def noop(**variables: Any) -> dict[str, Any]:
    return variables


@celeriac.agent("fleet parent", durable=True)
async def parent(ctx: "AgentContext", task: str) -> Any:
    """Run another task, with the prompt `plain`."""
    return await ctx.run(task, {"prompt": "plain"})


@celeriac.agent("fleet note")
async def note(ctx: "AgentContext", diary: str) -> dict[str, int]:
    _write(diary, ctx)
    return _who(ctx)


@celeriac.agent("fleet hold")
async def hold(ctx: "AgentContext", diary: str, gate: str) -> dict[str, int]:
    """Wait until the file `gate` exists, telling of it all the while."""
    _write(diary, ctx)
    while not _is_open(gate):  # noqa: ASYNC110 - the gate is a file
        await asyncio.sleep(_POLL_SECONDS)
    return _who(ctx)


@celeriac.agent("fleet take_back")
async def take_back(
    ctx: "AgentContext",
    input: dict[str, str],  # noqa: A002 - what undo tasks are given
    result: Any,
    error: Any,
) -> Any:
    """As `hold`, as an undo task, with the paths that its step was given."""
    _write(input["diary"], ctx)
    while not _is_open(input["gate"]):  # noqa: ASYNC110 - the gate is a file
        await asyncio.sleep(_POLL_SECONDS)
    return result if error is None else error


@celeriac.agent("fleet talk")
async def talk(ctx: "AgentContext", diary: str, gate: str) -> dict[str, int]:
    """As `hold`, with an event at every look."""
    _write(diary, ctx)
    looks = 0
    while not _is_open(gate):
        looks += 1
        await ctx.progress(looks)
        await asyncio.sleep(_POLL_SECONDS)
    return _who(ctx)


@celeriac.agent("fleet pulse")
async def pulse(ctx: "AgentContext", diary: str, gate: str, pulse: str) -> dict[str, int]:
    """As `hold`; writes into `pulse` when, and for how long, the loop let nobody run."""
    _write(diary, ctx)
    last = time.monotonic()
    with Path(pulse).open("a", buffering=1) as lines:  # noqa: ASYNC230 - a line at a time
        while not _is_open(gate):
            await asyncio.sleep(0.005)
            now = time.monotonic()
            lines.write(f"{last} {now - last}\n")
            last = now
    return _who(ctx)


@celeriac.agent("fleet give")
async def give(count: int = 0, depth: int = 0, text: int = 0) -> Any:
    """Return a list of numbers, a nest of objects, or a long text."""
    if text:
        return "ab" * text
    value: Any = list(range(count))
    for _ in range(depth):
        value = {"c": value}
    return value


@celeriac.agent("fleet pick")
async def pick(
    *,
    value: Any = None,
    bad: Sequence[Any] = (),
    cured: str = "",
    gate: str = "",
    diary: str = "",
    seconds: float = 0.0,
) -> Any:
    """Return the value, unless it is one of `bad` and the file `cured` doesn't exist.

    Writes the value into `diary`, takes `seconds`, and waits until the file `gate` exists.
    """
    if diary:
        append(diary, str(value))
    await asyncio.sleep(seconds)
    while gate and not _is_open(gate):  # noqa: ASYNC110 - the gate is a file
        await asyncio.sleep(_POLL_SECONDS)
    if value in bad and not (cured and _is_open(cured)):
        raise PermanentError(f"{value} is bad")
    return value


@celeriac.agent("fleet ask by")
async def ask_by(ctx: "AgentContext", schema: dict[str, Any]) -> Any:
    """Ask a person to fill a form of any schema."""
    return (await ctx.ask("Which one?", schema=schema)).value


@celeriac.agent("fleet large")
async def large(number: int, characters: int) -> str:
    """Return the number and a long text."""
    return f"{number} " + "x" * characters


@celeriac.agent("fleet numbers")
async def numbers(ctx: "AgentContext", step: Any) -> list[int]:
    """Return the numbers in the results of `large`."""
    return [int(each.split()[0]) async for each in ctx.results(step)]


@celeriac.agent("fleet numbers in child")
def numbers_in_child(ctx: "ChildContext", step: Any) -> list[int]:
    """Do the same in a child process."""
    return [int(each.split()[0]) for each in ctx.results(step)]


@celeriac.agent("fleet nap")
async def nap(ctx: "AgentContext", seconds: float, diary: str | None = None) -> dict[str, int]:
    if diary is not None:
        _write(diary, ctx)
    await asyncio.sleep(seconds)
    return _who(ctx)


@celeriac.agent("fleet stumble")
async def stumble(ctx: "AgentContext", diary: str, times: int) -> dict[str, int]:
    """Fail in the first `times` attempts."""
    _write(diary, ctx)
    if ctx.attempt <= times:
        raise RetryableError(f"attempt {ctx.attempt} stumbles")
    return _who(ctx)


@celeriac.agent("fleet tell")
async def tell(ctx: "AgentContext", times: int = 0) -> None:
    """Log in every way there is; fail in the first `times` attempts."""
    await ctx.log("told through the context", city="Oslo")
    logging.getLogger("shop").warning("told through logging")
    if ctx.attempt <= times:
        raise RetryableError(f"attempt {ctx.attempt} stumbles")


@celeriac.agent("fleet plain tell")
def plain_tell(ctx: ChildContext) -> int:
    """As `tell`, in a child process; return its pid."""
    ctx.log("told through the context", city="Oslo")
    logging.getLogger("shop").warning("told through logging")
    print("told through print")  # noqa: T201 - what this is about
    return os.getpid()


@celeriac.agent("fleet refuse")
async def refuse(ctx: "AgentContext", diary: str) -> None:
    _write(diary, ctx)
    raise PermanentError("never")


@celeriac.agent("fleet crash")
async def crash(ctx: "AgentContext", diary: str) -> None:
    """Kill the worker process that runs this."""
    _write(diary, ctx)
    os.kill(os.getpid(), signal.SIGKILL)
    await asyncio.sleep(60)


@celeriac.agent("fleet block the loop")
async def block_loop(ctx: "AgentContext", diary: str, seconds: float) -> None:
    _write(diary, ctx)
    time.sleep(seconds)  # noqa: ASYNC251 - what this is about


@celeriac.agent("fleet ignore the end")
async def ignore_cancel(ctx: "AgentContext", diary: str, gate: str) -> str:
    """Go on until the gate opens, whoever wants this to end."""
    _write(diary, ctx)
    while not _is_open(gate):
        try:
            await asyncio.sleep(_POLL_SECONDS)
        except asyncio.CancelledError:
            continue
    return "ended by itself"


@celeriac.agent("fleet ask")
async def ask(ctx: "AgentContext", diary: str) -> str:
    """Ask a person in its place, and return the answer."""
    _write(diary, ctx)
    return str((await ctx.ask("Which day?")).value)


@celeriac.agent("fleet plain ask")
def plain_ask(ctx: ChildContext, diary: str) -> str:
    """As `ask`, in a child process."""
    _write(diary, ctx)
    return str(ctx.ask("Which day?").value)


@celeriac.agent("fleet form")
async def form(ctx: "AgentContext") -> Any:
    """Ask a person to fill a form, and return what they filled in."""
    schema = {
        "type": "object",
        "properties": {
            "colour": {"enum": ["red", "green"]},
            "size": {"type": "integer", "minimum": 1, "description": "In metres."},
        },
        "required": ["colour"],
    }
    return (await ctx.ask("Which one?", schema=schema)).value


@celeriac.agent("fleet plain nap")
def plain_nap(ctx: ChildContext, diary: str, seconds: float) -> dict[str, int]:
    _write(diary, ctx)
    time.sleep(seconds)
    return _who(ctx)


@celeriac.agent("fleet plain family")
def plain_family(ctx: ChildContext, diary: str, pids: str) -> None:
    """Start processes that start processes, write down all pids, and never end."""
    _write(diary, ctx)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen(["sh", "-c", "sleep 600 & echo $!; wait"], stdout=subprocess.PIPE)
    assert child.stdout is not None
    grandchild = int(child.stdout.readline())
    loner = subprocess.Popen(["sleep", "600"], start_new_session=True)
    partial = Path(pids).with_suffix(".part")
    partial.write_text(f"{os.getpid()} {child.pid} {grandchild} {loner.pid}")
    partial.rename(pids)
    while True:
        try:
            threading.Event().wait()
        except celeriac.SoftTimeLimit:
            continue


@celeriac.agent("fleet spend")
async def spend(ctx: "AgentContext", calls: int, tokens: int) -> int:
    """Make so many model calls, of so many tokens each."""
    for _ in range(calls):
        await ctx.charge(provider="own", model="m", input_tokens=tokens, output_tokens=0)
    return calls


@celeriac.agent("fleet plain spend")
def plain_spend(ctx: ChildContext, calls: int, tokens: int) -> int:
    """As `spend`, in a child process, which takes its time after each call."""
    for _ in range(calls):
        ctx.charge(provider="own", model="m", input_tokens=tokens, output_tokens=0)
        time.sleep(0.2)
    return calls


@celeriac.agent("fleet bill")
async def bill(ctx: "AgentContext", diary: str, gate: str, model: str = "m") -> int:
    """As `hold`, with a model call of one token and an event at every look; return how many."""
    _write(diary, ctx)
    calls = 0
    while not _is_open(gate):
        calls += 1
        await ctx.charge(provider="own", model=model, input_tokens=1, output_tokens=0)
        await ctx.progress(calls)
        await asyncio.sleep(_POLL_SECONDS)
    return calls


def _is_open(gate: str) -> bool:
    return Path(gate).exists()


def _who(ctx: "AgentContext | ChildContext") -> dict[str, int]:
    return {"attempt": ctx.attempt, "pid": os.getpid()}


def _write(diary: str, ctx: "AgentContext | ChildContext") -> None:
    append(diary, f"{ctx.attempt} {os.getpid()}")


def append(diary: str, line: str) -> None:
    """Append a line to a file in one write."""
    handle = os.open(diary, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, f"{line}\n".encode())
    finally:
        os.close(handle)


def take_notes(ctx: ChildContext) -> None:
    """Write a file into the working directory."""
    (ctx.workdir / "notes").mkdir(exist_ok=True)
    (ctx.workdir / "notes" / "a b.txt").write_text("noted")
