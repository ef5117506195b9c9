"""An MCP server of two tools that starts in no time: `note` and `ring`.

python -m tests.support.mcp_desk
"""

from pathlib import Path

from tests.support.mcp_lines import PLAIN, Request, say, serve

TOOLS = [
    {
        "name": "note",
        "description": "Write a line into `notes` in the working directory.",
        "inputSchema": {
            "type": "object",
            "properties": {"text": {"type": "string"}},
            "required": ["text"],
            "additionalProperties": False,
        },
    },
    {"name": "ring", "inputSchema": PLAIN},
]


def call(request: Request) -> None:
    """Write a note with the key of the call, or ring."""
    asked = request["params"]
    if asked["name"] == "ring":
        say(request, "rang")
        return
    text = asked["arguments"]["text"]
    with Path("notes").open("a") as notes:
        notes.write(f"{text} {asked['_meta']['celeriac/idempotency-key']}\n")
    say(request, f"noted {text}")


if __name__ == "__main__":
    serve(TOOLS, call)
