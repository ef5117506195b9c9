"""A user's durable agents. Effects are lines of the file that the variable `log` names."""

import asyncio
import os
import signal
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import celeriac
from celeriac import AgentContext, ChildContext, PermanentError
from tests.support.waiting import wait_until


def note(log: str, line: str) -> str:
    """Have an effect, and return it."""
    with Path(log).open("a") as file:
        file.write(line + "\n")
    return line


@celeriac.agent("ten-steps", durable=True)
async def ten_steps(ctx: AgentContext, log: str, stop_at: int = 0) -> list[str]:
    """Make ten steps; a marker file makes the worker be stopped after one of them."""
    done = []
    for number in range(1, 11):
        done.append(await ctx.step(note, log, f"step {number}"))
        if number == stop_at and ctx.attempt == 1:
            raise celeriac.RetryableError("stopped")
    return done


@celeriac.agent("ten-steps-in-child", durable=True)
def ten_steps_in_child(ctx: ChildContext, log: str, stop_at: int = 0) -> list[str]:
    """Do the same in a child process."""
    done = []
    for number in range(1, 11):
        done.append(ctx.step(note, log, f"step {number}"))
        if number == stop_at and ctx.attempt == 1:
            raise celeriac.RetryableError("stopped")
    return done


def written(value: str) -> None:
    """Write the value of a checkout, and count how often."""
    Path("lib/value").write_text(f"{value}\n")
    with Path("log").open("a") as log:
        log.write(f"{value}\n")


@celeriac.agent("corrector", durable=True)
def corrector(ctx: ChildContext) -> str:
    """Write a value in a checkout, and another one after a check that says which is expected."""
    ctx.step("write", written, "1")
    if "expected 2" in ctx.prompt:
        ctx.step("correct", written, "2")
    return "done"


@celeriac.agent("sleeper", durable=True)
async def sleeper(ctx: AgentContext, log: str, seconds: float = 3600.0) -> list[str]:
    """Sleep between two steps."""
    before = await ctx.step("before", note, log, "before")
    await ctx.sleep(seconds)
    return [before, await ctx.step("after", note, log, "after")]


@celeriac.agent("sleeper-in-child", durable=True)
def sleeper_in_child(ctx: ChildContext, log: str, seconds: float = 3600.0) -> list[str]:
    """Do the same in a child process."""
    before = ctx.step("before", note, log, "before")
    ctx.sleep(seconds)
    return [before, ctx.step("after", note, log, "after")]


@celeriac.agent("parent", durable=True)
async def parent(ctx: AgentContext, log: str, task: str) -> Any:
    """Run a child between two steps."""
    before = await ctx.step("before", note, log, "before")
    child = await ctx.run(task, {"n": 1})
    return [before, child, await ctx.step("after", note, log, "after")]


@celeriac.agent("parent-of-many", durable=True)
async def parent_of_many(ctx: AgentContext, task: str, count: int) -> list[Any]:
    """Run children, one after the other."""
    return [await ctx.run(task, {"n": number}) for number in range(count)]


@celeriac.agent("parent-in-child", durable=True)
def parent_in_child(ctx: ChildContext, log: str, task: str) -> Any:
    """Do the same in a child process."""
    before = ctx.step("before", note, log, "before")
    child = ctx.run(task, {"n": 1})
    return [before, child, ctx.step("after", note, log, "after")]


@celeriac.agent("family", durable=True)
async def family(ctx: AgentContext, log: str, task: str) -> Any:
    """Run children, a step, a branch with a child, and a sleep at the same time."""

    async def branch() -> Any:
        made = await ctx.step("in a branch", note, log, "in a branch")
        return [made, await ctx.run(task, {"n": 3})]

    return await ctx.gather(
        ctx.run(task, {"n": 1}),
        ctx.run(task, {"n": 2}),
        ctx.step(note, log, "beside"),
        branch(),
        ctx.sleep(0.01),
    )


@celeriac.agent("family-in-child", durable=True)
def family_in_child(ctx: ChildContext, log: str, task: str) -> Any:
    """Do the same in a child process."""

    def branch() -> Any:
        made = ctx.step("in a branch", note, log, "in a branch")
        return [made, ctx.run(task, {"n": 3})]

    return ctx.gather(
        lambda: ctx.run(task, {"n": 1}),
        lambda: ctx.run(task, {"n": 2}),
        lambda: ctx.step(note, log, "beside"),
        branch,
        lambda: ctx.sleep(0.01),
    )


@celeriac.agent("mapper", durable=True)
async def mapper(
    ctx: AgentContext, task: str, width: int, parallel: int | None = None, errors: bool = False
) -> Any:
    """Run a task for each number."""
    found = await ctx.map(
        task, [{"n": n} for n in range(width)], parallel=parallel, return_errors=errors
    )
    return [str(each) if isinstance(each, Exception) else each for each in found]


@celeriac.agent("double")
async def double(n: int) -> int:
    """Return twice a number; fail for 13."""
    if n == 13:
        raise PermanentError("unlucky")
    return 2 * n


@celeriac.agent("asker", durable=True)
async def asker(ctx: AgentContext, log: str) -> Any:
    """Ask a person between two steps."""
    await ctx.step("before", note, log, "before")
    answer = await ctx.approve("send_mail", {"to": "ada@example.com"})
    return [answer.approved, await ctx.step("after", note, log, "after")]


@celeriac.agent("asker-in-child", durable=True)
def asker_in_child(ctx: ChildContext, log: str) -> Any:
    """Do the same in a child process."""
    ctx.step("before", note, log, "before")
    answer = ctx.approve("send_mail", {"to": "ada@example.com"})
    return [answer.approved, ctx.step("after", note, log, "after")]


def _charge(log: str, fails: int) -> str:
    lines = Path(log).read_text().splitlines() if Path(log).exists() else []
    note(log, "charge")
    if lines.count("charge") < fails:
        raise celeriac.RetryableError("no answer")
    return "charged"


@celeriac.agent("charger", durable=True)
async def charger(
    ctx: AgentContext, log: str, fails: int, retry: int, handles: bool = False
) -> Any:
    """Charge, with retries; with `handles` go on after a failure, and fail once then."""
    try:
        charged = await ctx.step("charge", _charge, log, fails, retry=retry, backoff=0.001)
    except celeriac.StepFailedError as error:
        if not handles:
            raise
        charged = f"{error.step}: {error.code}"
        await ctx.step("apologise", note, log, "apologise")
    if handles and ctx.attempt == 1:
        raise celeriac.RetryableError("later")
    return charged


def _words(file: str) -> list[str]:
    return Path(file).read_text().split()


@celeriac.agent("changed", durable=True)
async def changed(ctx: AgentContext, log: str) -> None:
    """Make the steps that a file names, then fail; gather those with a | or an & between them.

    With an & they are made by functions of their own.
    """

    async def made(name: str) -> None:
        await ctx.step(name, str, name)

    for name in _words(log):
        if "|" in name:
            await ctx.gather(*(ctx.step(each, str, each) for each in name.split("|")))
        elif "&" in name:
            await ctx.gather(*(made(each) for each in name.split("&")))
        else:
            await made(name)
    raise celeriac.RetryableError("again")


@celeriac.agent("swallower", durable=True)
async def swallower(ctx: AgentContext) -> str:
    """Catch what it must not catch."""
    try:
        await ctx.sleep(3600)
    except BaseException:  # noqa: BLE001 - that is what it does
        return "awake"
    return "slept"


@celeriac.agent("not-durable")
async def not_durable(ctx: AgentContext, log: str, task: str = "") -> Any:
    """Sleep and make a step in place; with a task, run that."""
    made = await ctx.step(note, log, "step")
    await ctx.sleep(2.5)
    return await ctx.run(task) if task else made


@celeriac.agent("large", durable=True)
async def large(ctx: AgentContext, size: int) -> int:
    """Store a large result, then fail once."""
    text = await ctx.step("large", "x".__mul__, size)
    if ctx.attempt == 1:
        raise celeriac.RetryableError("again")
    return len(text)


@celeriac.agent("nested", durable=True)
async def nested(ctx: AgentContext, log: str) -> list[str]:
    """Make a step within a step, then sleep, and go on."""

    async def outer() -> list[str]:
        return [await ctx.step("inner", note, log, "inner"), note(log, "outer")]

    made = await ctx.step("outer", outer)
    await ctx.sleep(3600)
    return [*made, await ctx.step("after", note, log, "after")]


@celeriac.agent("nested-in-child", durable=True)
def nested_in_child(ctx: ChildContext, log: str) -> list[str]:
    """Do the same in a child process."""

    def outer() -> list[str]:
        return [ctx.step("inner", note, log, "inner"), note(log, "outer")]

    made = ctx.step("outer", outer)
    ctx.sleep(3600)
    return [*made, ctx.step("after", note, log, "after")]


@celeriac.agent("for-ever", durable=True)
async def for_ever(ctx: AgentContext) -> None:
    """Sleep until the last time that Python knows."""
    await ctx.sleep(until=datetime.max.replace(tzinfo=UTC))


@celeriac.agent("asks-much", durable=True)
async def asks_much(ctx: AgentContext, number: int) -> None:
    """Ask many questions at once."""
    await ctx.gather(*(ctx.ask(f"Question {each}?") for each in range(number)))


@celeriac.agent("hoarder", durable=True)
async def hoarder(ctx: AgentContext) -> list[int]:
    """Store results that are large, but small when PostgreSQL has compressed them."""
    sizes = [len(await ctx.step(f"s{n}", "x".__mul__, 500_000)) for n in range(3)]
    if ctx.attempt == 1:
        raise celeriac.RetryableError("again")
    return sizes


@celeriac.agent("stubborn", durable=True)
async def stubborn(ctx: AgentContext) -> int:
    """Try a step again very often."""
    tries = 0

    def attempt() -> int:
        nonlocal tries
        tries += 1
        if tries < 1_100:
            raise ValueError(str(tries))
        return tries

    return int(await ctx.step(attempt, retry=2_000, backoff=0.0))


@celeriac.agent("bounded", durable=True)
async def bounded(ctx: AgentContext, task: str, width: int) -> Any:
    """Run branches that each run a child, two at a time."""
    running = 0
    most = 0

    async def branch(n: int) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        try:
            return await ctx.run(task, {"n": n})
        finally:
            running -= 1

    found = await ctx.gather(*(branch(n) for n in range(width)), parallel=2)
    return [found, most]


@celeriac.agent("bounded-in-child", durable=True)
def bounded_in_child(ctx: ChildContext, task: str, width: int) -> Any:
    """Do so in a child process."""
    work = [partial(ctx.run, task, {"n": n}) for n in range(width)]
    return [ctx.gather(*work, parallel=2), 2]


@celeriac.agent("gatherer", durable=True)
async def gatherer(ctx: AgentContext, sizes: list[int]) -> list[int]:
    """Gather texts of steps; one of a coroutine's own is not counted."""

    async def own() -> str:
        return "x" * 1_000

    calls = [ctx.step(f"of {size}", lambda size=size: "x" * size) for size in sizes]
    return [len(each) for each in await ctx.gather(own(), *calls)]


@celeriac.agent("queues", durable=True)
async def queues(ctx: AgentContext, task: str) -> Any:
    """Run children with queues and priorities of their own."""
    return await ctx.gather(
        ctx.run(task, {"n": 0}),
        ctx.run(task, {"n": 1}, queue="slow", priority="high"),
        ctx.map(task, [{"n": 2}], queue="slow", priority="low"),
    )


@celeriac.agent("killed", durable=True)
async def killed(ctx: AgentContext, log: str, marks: str) -> list[str]:
    """Make ten steps; the process is killed after each of them, once."""
    done = []
    for number in range(1, 11):
        done.append(await ctx.step(note, log, f"step {number}"))
        if _is_first(marks, number):
            os.kill(os.getpid(), signal.SIGKILL)
    return done


@celeriac.agent("halting", durable=True)
async def halting(ctx: AgentContext, log: str, gate: str) -> list[str]:
    """Make ten steps, and wait in the middle until a file is there."""
    done = []
    for number in range(1, 11):
        if number == 6:
            await asyncio.to_thread(_wait_for, gate)
        done.append(await ctx.step(note, log, f"step {number}"))
    return done


def _is_first(marks: str, number: int) -> bool:
    mark = Path(marks) / f"killed-{number}"
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _wait_for(file: str) -> None:
    wait_until(Path(file).exists, f"{file} is there", within=60.0)
