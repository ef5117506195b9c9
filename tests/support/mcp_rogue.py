"""A program that speaks MCP badly over stdio, in the way that its argument names.

    python tests/support/mcp_rogue.py MANNER

`silent` never answers, `exits` at once, `stubborn` doesn't want to end; `unlisted` has a list of
tools that is none, `schemas` one of odd tools, `many` a long one; `garbage` and `flood` answer
calls with what is no answer, and with far too much.
"""

import json
import signal
import sys
import time
from typing import Any

MANNER = sys.argv[-1]

PLAIN = {"type": "object", "properties": {}}
TOOLS: dict[str, list[dict[str, Any]]] = {
    "schemas": [
        {"name": "good", "inputSchema": PLAIN, "description": "Fine.\x00\x1b[31m"},
        {"name": "good", "inputSchema": PLAIN, "description": "The same name again."},
        {"name": "remote", "inputSchema": {"type": "object", "$ref": "http://127.0.0.1:9/x"}},
        {"name": "wrong", "inputSchema": {"type": "object", "minProperties": -1}},
        {"name": "an unfit / name \N{SNOWMAN}" + "n" * 80, "inputSchema": PLAIN},
    ],
    "unlisted": [{"name": 7, "inputSchema": "none"}],
    "many": [{"name": f"tool{number}", "inputSchema": PLAIN} for number in range(200)],
}


def write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def send(request: dict[str, Any], result: dict[str, Any]) -> None:
    write(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}))


def answer(request: dict[str, Any]) -> None:
    match request["method"]:
        case "initialize":
            version = request["params"]["protocolVersion"]
            info = {"name": "rogue", "version": "0"}
            capabilities = {"tools": {}}
            send(
                request,
                {"protocolVersion": version, "capabilities": capabilities, "serverInfo": info},
            )
        case "tools/list":
            send(request, {"tools": TOOLS.get(MANNER, TOOLS["schemas"][:1])})
        case "tools/call" if MANNER == "flood":
            write("y" * (17 * 1024 * 1024))
        case "tools/call" if MANNER == "garbage":
            write("this is no JSON")
            send(request, {"content": "neither is this what it should be"})
        case "tools/call":
            send(request, {"content": [{"type": "text", "text": "done"}]})
        case method if "id" in request:
            error = {"code": -32601, "message": f"no {method}"}
            write(json.dumps({"jsonrpc": "2.0", "id": request["id"], "error": error}))


def main() -> None:
    if MANNER == "exits":
        sys.exit("no licence")
    if MANNER == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if MANNER == "silent":
        time.sleep(600)
    for line in sys.stdin:
        answer(json.loads(line))
    if MANNER == "stubborn":
        time.sleep(600)


if __name__ == "__main__":
    main()
