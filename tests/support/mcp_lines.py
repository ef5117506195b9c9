"""MCP by hand, over stdio: enough of it for servers that start in no time, or misbehave."""

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

Request = dict[str, Any]
Tool = dict[str, Any]
PLAIN = {"type": "object", "properties": {}}


def serve(tools: Sequence[Tool], call: Callable[[Request], None]) -> None:
    """Answer until stdin ends; `call` answers the calls of tools."""
    for line in sys.stdin:
        request = json.loads(line)
        match request["method"]:
            case "initialize":
                send(
                    request,
                    {
                        "protocolVersion": request["params"]["protocolVersion"],
                        "capabilities": {"tools": {}},
                        "serverInfo": {"name": "lines", "version": "0"},
                    },
                )
            case "tools/list":
                send(request, {"tools": tools})
            case "tools/call":
                call(request)
            case method if "id" in request:
                error = {"code": -32601, "message": f"no {method}"}
                write(json.dumps({"jsonrpc": "2.0", "id": request["id"], "error": error}))


def send(request: Request, result: dict[str, Any]) -> None:
    """Answer a request."""
    write(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}))


def say(request: Request, text: str) -> None:
    """Answer a call with a text."""
    send(request, {"content": [{"type": "text", "text": text}]})


def write(line: str) -> None:
    """Write a line as it is."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
