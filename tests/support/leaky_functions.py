"""Agents that write the secret that they were given to wherever a program can write."""

import logging
import os
import sys
from json import dumps
from typing import TYPE_CHECKING, Any

import celeriac

if TYPE_CHECKING:
    from celeriac import ChildContext


def _leaked(ctx: "ChildContext") -> dict[str, Any]:
    """Write the secret to every output but the result and the error; return it in several forms."""
    value = os.environ["SHOP_TOKEN"]
    sys.stdout.write(f"printed {value}\n")
    sys.stdout.flush()
    sys.stderr.write(f"to stderr {value}\n")
    sys.stderr.write("x" * 19_995 + f"{value}\n")  # cut in the middle of the value
    logging.getLogger("shop").warning("logged %s", value, extra={"token": value})
    ctx.emit("sold", {"value": value, value: "as a key", "nested": [{"deep": dumps(value)}]})
    ctx.progress(1, 2, f"halfway to {value}")
    ctx.label({"seen": value[:60]})
    return {"value": value, "json": dumps({"again": value}), value: [f"in {value} a text"]}


@celeriac.agent("leak in the result")
def leak_result(ctx: "ChildContext") -> dict[str, Any]:
    return _leaked(ctx)


@celeriac.agent("leak in the error")
def leak_error(ctx: "ChildContext") -> None:
    leaked = _leaked(ctx)
    raise celeriac.PermanentError("x" * 1_990 + leaked["value"], given=leaked["value"], all=leaked)


@celeriac.agent("leak in a step", durable=True)
def leak_steps(ctx: "ChildContext") -> str:
    value = os.environ["SHOP_TOKEN"]
    ctx.step("look", lambda: {"result": value})
    ctx.ask(f"May I use {value}?", key="use")
    ctx.step(f"step {value}", len, value)
    return value


@celeriac.agent("leak from a coroutine")
async def leak_coroutine() -> str:
    return os.environ.get("SHOP_TOKEN", "nothing")
