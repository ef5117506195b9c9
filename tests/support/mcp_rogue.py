"""A program that violates MCP over stdio, as its argument names.

    python -m tests.support.mcp_rogue MANNER

`silent` never answers, `exits` at once, `stubborn` doesn't want to end; `unlisted` has a list of
tools that is none, `schemas` one of odd tools, `many` a long one; `garbage` and `flood` answer
calls with what is no answer, and with far too much; `coded` answers with an error of the code that
its argument names, `noisy` floods its stderr first, and the `promised`, `wrong`, `hollow`, `bare`,
`blank`, `listed` and `null` work, but answer in a form that isn't quite MCP's.
"""

import json
import signal
import sys
import time

from tests.support.mcp_lines import PLAIN, Request, Tool, say, send, serve, write
from tests.support.stall_bombs import fanned

GOOD: Tool = {"name": "good", "inputSchema": PLAIN, "description": "Fine.\x00\x1b[31m"}
TOOLS: dict[str, list[Tool]] = {
    "schemas": [
        GOOD,
        {**GOOD, "description": "The same name again."},
        {"name": "remote", "inputSchema": {"type": "object", "$ref": "http://127.0.0.1:9/x"}},
        {"name": "fanned", "inputSchema": {"type": "object", **fanned(30)}},
        {"name": "wrong", "inputSchema": {"type": "object", "minProperties": -1}},
        {"name": "an unfit / name \N{SNOWMAN}" + "n" * 80, "inputSchema": PLAIN},
    ],
    "promised": [{**GOOD, "outputSchema": {"type": "object", "required": ["sum"]}}],
    "wrong": [{**GOOD, "outputSchema": {"type": "object", "required": ["sum"]}}],
    "coded": [{**GOOD, "inputSchema": {"type": "object"}}],
    "unlisted": [{"name": 7, "inputSchema": "none"}],
    "many": [{"name": f"tool{number}", "inputSchema": PLAIN} for number in range(200)],
}


ANSWERS: dict[str, dict[str, object]] = {
    "promised": {"content": [{"type": "text", "text": "42"}]},
    "wrong": {
        "content": [{"type": "text", "text": "40 and 2"}],
        "structuredContent": {"total": 42},
    },
    "hollow": {"structuredContent": {"sum": 42}},
    "bare": {"content": "42"},
    "blank": {},
    "listed": {"content": [{"text": "42"}], "isError": None, "structuredContent": [1]},
}


def call(manner: str, request: Request) -> None:
    """Answer a call in that manner."""
    match manner:
        case "flood":
            write("y" * (17 * 1024 * 1024))
        case "coded":
            code = request["params"]["arguments"]["code"]
            error = {"code": code, "message": "quota used up"}
            write(json.dumps({"jsonrpc": "2.0", "id": request["id"], "error": error}))
        case "noisy":
            for number in range(200_000):
                sys.stderr.write(f"line {number} of many, many, many\n")
            sys.stderr.flush()
            say(request, "done")
        case "null":
            write(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": None}))
        case "garbage":
            write("this is no JSON")
            send(request, {"content": "neither is this what it should be"})
        case _ if manner in ANSWERS:
            send(request, ANSWERS[manner])
        case _:
            say(request, "done")


def main(manner: str) -> None:
    """Serve in that manner."""
    if manner == "exits":
        sys.exit("no licence")
    if manner == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if manner == "silent":
        time.sleep(600)
    serve(TOOLS.get(manner, [GOOD]), lambda request: call(manner, request))
    if manner == "stubborn":
        time.sleep(600)


if __name__ == "__main__":
    main(sys.argv[1])
