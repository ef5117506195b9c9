"""A user's package of agents, as far as the tests of the `python` runner need one."""

import asyncio
import ctypes
import json
import logging
import os
import resource
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

import celeriac
from celeriac import ChildContext, RetryableError, SoftTimeLimit
from celeriac.domain.errors import InvalidInputError
from tests.support.escapes import table

if TYPE_CHECKING:
    from celeriac import AgentContext


class Lead(BaseModel):
    company: str
    size: int = 1


class ShopClosedError(RetryableError):
    code = "shop_closed"


@celeriac.agent("score")
def score(lead: Lead, factor: int = 2) -> dict[str, Any]:
    return {"company": lead.company, "score": lead.size * factor, "lead": lead}


@celeriac.agent("echo")
def echo(**variables: Any) -> dict[str, Any]:
    return variables


@celeriac.agent("read results")
async def read_results(ctx: "AgentContext", step: Any) -> list[Any]:
    return [each async for each in ctx.results(step)]


@celeriac.agent("read results in child")
def read_results_in_child(ctx: "ChildContext", step: Any) -> list[Any]:
    return list(ctx.results(step))


@celeriac.agent("label")
async def label(ctx: "AgentContext", labels: dict[str, Any]) -> Any:
    await ctx.label({"language": "en"})
    try:
        await ctx.label(labels)
    except InvalidInputError as error:
        return error.message
    return await ctx.label()


@celeriac.agent("label in child")
def label_in_child(ctx: "ChildContext", labels: dict[str, Any]) -> Any:
    ctx.label({"language": "en"})
    try:
        ctx.label(labels)
    except InvalidInputError as error:
        return error.message
    return ctx.label()


@celeriac.agent("greet")
async def greet(ctx: "AgentContext", name: str) -> dict[str, Any]:
    await ctx.progress(1, 2, "half")
    await ctx.emit("greeted", {"name": name})
    await ctx.log("hello", level="warning", name=name)
    await ctx.charge(provider="p", model="m", input_tokens=3, output_tokens=4)
    ctx.delta({"text": "he"})
    return {"key": ctx.idempotency_key("mail"), "prompt": ctx.prompt, "pid": os.getpid()}


@celeriac.agent("report")
def report(ctx: ChildContext) -> dict[str, Any]:
    ctx.progress(1, 2, "half")
    ctx.emit("greeted", {"name": "Ada"})
    ctx.log("hello", level="warning", name="Ada")
    ctx.charge(provider="p", model="m", input_tokens=3, output_tokens=4)
    ctx.delta({"text": "he"})
    logging.getLogger("shop").error("broken")
    return {
        "key": ctx.idempotency_key("mail"),
        "prompt": ctx.prompt,
        "pid": os.getpid(),
        "cwd": str(Path.cwd()),
        "session": os.getsid(0) == os.getpid(),
        "environment": sorted(os.environ),
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "correlation": ctx.correlation,
    }


@celeriac.agent("print everywhere")
def print_everywhere(lines: int) -> str:
    for number in range(lines):
        print("out", number)  # noqa: T201 - what this is about
    os.write(1, b'{"type": "result", "value": "forged"}\n')
    os.system("echo from a shell")
    print("caf\udce9", file=sys.stderr)  # noqa: T201 - what this is about
    return sys.stdin.read()


@celeriac.agent("allocate")
def allocate(megabytes: int) -> int:
    return len(bytearray(megabytes * 1024 * 1024))


@celeriac.agent("end")
def end(how: str) -> None:
    if how == "os._exit":
        os._exit(7)
    if how == "sys.exit":
        sys.exit("that is all")
    if how == "abort":
        os.abort()
    ctypes.string_at(0)


@celeriac.agent("fail")
def fail(how: str) -> None:
    if how == "own code":
        raise ShopClosedError("closed until 9", opens=9)
    raise LookupError("no such lead: \udce9")


@celeriac.agent("answer with")
def answer_with(what: str) -> object:
    answers: dict[str, object] = {
        "set": {1, 2},
        "nan": float("nan"),
        "surrogate": "\udce9",
        "large": "x" * 9_000_000,
        "big": "x" * 5_000_000,
    }
    return answers[what]


def nested(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = [value]
    return value


def circle() -> object:
    value: list[object] = []
    value.append(value)
    return value


ODD: dict[str, Callable[[], object]] = {
    "2**63 - 1": lambda: 2**63 - 1,
    "-2**63": lambda: -(2**63),
    "2**63": lambda: 2**63,
    "2**64": lambda: 2**64,
    "-2**63 - 1": lambda: -(2**63) - 1,
    "2**64 within": lambda: {"a": [2**64]},
    "10**400": lambda: 10**400,
    "digits in a text": lambda: "18446744073709551616",
    "64 levels": lambda: nested(64),
    "65 levels": lambda: nested(65),
    "190 levels": lambda: nested(190),
    "300 levels": lambda: nested(300),
    "900 levels": lambda: nested(900),
    "a circle": circle,
    "a number as a key": lambda: {1: "a", None: "b"},
    "equal keys": lambda: {1: "a", "1": "b"},
    "equal keys within": lambda: [{"x": {True: "a", "true": "b"}}],
    "NaN": lambda: float("nan"),
    "infinity within": lambda: {"a": [float("inf"), None]},
    "half a character": lambda: "\udce9",
    "half a character as a key": lambda: {"\udce9": 1},
    "NUL": lambda: "a\x00b",
}
"""Values at the edges of what can be stored."""


@celeriac.agent("odd")
def odd(ctx: ChildContext, what: str, how: str) -> object:
    value = ODD[what]()
    if how == "return":
        return value
    if how == "emit":
        ctx.emit("odd", {"value": value})
    else:
        ctx.log("odd", value=value)
    return None


@celeriac.agent("odd coroutine")
async def odd_coroutine(ctx: "AgentContext", what: str, how: str) -> object:
    value = ODD[what]()
    if how == "return":
        return value
    if how == "emit":
        await ctx.emit("odd", {"value": value})
    else:
        await ctx.log("odd", value=value)
    return None


@celeriac.agent("leave processes")
def leave_processes(note: str) -> None:
    _start_family(Path(note))


@celeriac.agent("hang with processes")
def hang_with_processes(note: str, *, stubborn: bool = False) -> None:
    if stubborn:
        _ignore_sigterm()
    _start_family(Path(note))
    threading.Event().wait()


@celeriac.agent("wind up")
def wind_up(note: str, after: str) -> str:
    try:
        Path(note).write_text("started")
        time.sleep(60)
    except SoftTimeLimit:
        if after == "return":
            return "partial"
        if after == "raise":
            raise
        threading.Event().wait()
    return "too late"


@celeriac.agent("clean up")
def clean_up(note: str) -> None:
    try:
        Path(note).write_text("started")
        time.sleep(60)
    finally:
        Path(note).write_text("cleaned up")


@celeriac.agent("wait")
async def wait_for_cancel(ctx: "AgentContext") -> None:
    try:
        await ctx.emit("started")
        await asyncio.sleep(60)
    finally:
        await ctx.emit("cleaned up")


@celeriac.agent("exit on the loop")
async def exit_on_loop() -> None:
    sys.exit(3)


@celeriac.agent("generate")
def generate() -> Iterator[int]:
    yield 1


@celeriac.agent("positional")
def positional(name: str, /) -> str:
    return name


@celeriac.agent("unmakeable")
def unmakeable(thing: subprocess.Popen[bytes]) -> None:
    del thing


def not_offered(**variables: Any) -> dict[str, Any]:
    return variables


def _ignore_sigterm() -> None:
    import signal

    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _start_family(note: Path) -> None:
    """Start processes that are hard to find, and write down their pids."""
    family = [
        subprocess.Popen(["sleep", "600"]),
        subprocess.Popen(["sleep", "600"], start_new_session=True),
    ]
    # A daemon: its parent is gone, and it has a session of its own.
    daemon = subprocess.run(
        ["sh", "-c", "setsid sleep 600 >/dev/null 2>&1 & echo $!"],
        check=True,
        stdout=subprocess.PIPE,
    )
    pids = [os.getpid(), *(process.pid for process in family), int(daemon.stdout)]
    partial = note.with_suffix(".part")
    partial.write_text(" ".join(map(str, pids)))
    partial.rename(note)


@celeriac.agent("ask-on-loop")
async def ask_on_loop(ctx: "AgentContext", mail: str) -> dict[str, Any]:
    sent = await ctx.approve("send_mail", {"to": mail})
    why = await ctx.ask("Why?", key="why", on_expiry="approve", default="no reason")
    return {"approved": sent.approved, "to": sent.value, "why": why.value}


@celeriac.agent("ask-in-child")
def ask_in_child(ctx: ChildContext, mail: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    other = threading.Thread(target=lambda: found.update(why=ctx.ask("Why?", key="why").value))
    other.start()
    ctx.progress(1, 2)
    sent = ctx.approve("send_mail", {"to": mail})
    other.join()
    return {"approved": sent.approved, "to": sent.value, **found}


@celeriac.agent("ask-for-ever")
def ask_for_ever(ctx: ChildContext) -> str:
    try:
        ctx.ask("Is anybody there?", key="nobody")
    except SoftTimeLimit:
        return "nobody was there"
    return "somebody was there"


class _Odd(Exception):  # noqa: N818 - what it lacks is what is tested
    """Raises wherever it is asked what it is."""

    def __getattribute__(self, name: str) -> Any:
        if name in {"__class__", "retryable", "code", "details", "retry_after", "__notes__"}:
            raise LookupError(name)
        return super().__getattribute__(name)


class _OddText(Exception):  # noqa: N818
    def __str__(self) -> str:
        raise LookupError("no text")

    __repr__ = __str__


class _OddExit(SystemExit):
    def __repr__(self) -> str:
        raise LookupError("no text")

    __str__ = __repr__


class _OddDetails(RetryableError):  # noqa: N818
    def __init__(self) -> None:
        super().__init__("odd details")
        self.details = {"a": {1, 2}, 5: float("nan")}  # type: ignore[dict-item]


class _OddCode(RetryableError):  # noqa: N818
    code = 5  # type: ignore[assignment]
    retryable = "yes"  # type: ignore[assignment]


class _Exiting(Exception):  # noqa: N818
    def __str__(self) -> str:
        raise SystemExit(3)


class _OddNotes(Exception):  # noqa: N818
    """Python formats a traceback with the notes of its error."""

    @property
    def __notes__(self) -> list[str]:  # type: ignore[override]
        sys.exit(3)


UNTOLD: dict[str, Callable[[], BaseException]] = {
    "asked anything": _Odd,
    "no text": _OddText,
    "half a character": lambda: ValueError("half \ud800 and \x00"),
    "an exit without a text": _OddExit,
    "details that are no JSON": _OddDetails,
    "a code that is no text": lambda: _OddCode("odd code"),
    "a text that ends the process": _Exiting,
    "notes that end the process": lambda: _OddNotes("odd notes"),
    "a cause without a text": lambda: _caused_by(_OddText()),
}
"""Errors that can't be described as others are."""


def _caused_by(cause: BaseException) -> BaseException:
    error = ValueError("caused")
    error.__cause__ = cause
    return error


@celeriac.agent("raise_untold")
def raise_untold(what: str) -> None:
    error = UNTOLD[what]()
    raise error


@celeriac.agent("ask_model")
def ask_model(provider: str, prompt: str) -> str:
    """Ask a model at the attempt's gateway."""
    body = {"model": "m", "messages": [{"role": "user", "content": prompt}]}
    request = urllib.request.Request(
        f"{os.environ['CELERIAC_MODEL_URL']}/{provider}/chat/completions",
        json.dumps(body).encode(),
        {
            "content-type": "application/json",
            "authorization": f"Bearer {os.environ['CELERIAC_MODEL_KEY']}",
        },
    )
    with urllib.request.urlopen(request) as response:
        return str(json.load(response)["choices"][0]["message"]["content"])


def look_at(path: str, ctx: ChildContext) -> dict[str, Any]:
    """Say whether `path` exists, and write that into the working directory."""
    exists = Path(path).exists()
    (ctx.workdir / "seen").write_text("there" if exists else "not there")
    return {"exists": exists, "workdir": str(ctx.workdir), "wrote": True}


def escape(only: list[str], **targets: Any) -> dict[str, str]:
    """Make the attempts of `tests.support.escapes`, in this process."""
    return table.results(targets, only)
