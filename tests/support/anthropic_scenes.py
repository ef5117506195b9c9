"""What the scripted Anthropic server answers, by the scene that the prompt names."""

import json
import time
from typing import Any

from tests.support.anthropic_server import Exchange, Scene

KEY = "sk-ant-test-0123456789abcdef"
SCENES: dict[str, Scene] = {}


def scene(function: Scene) -> Scene:
    """Play `function` for prompts that name it in square brackets."""
    SCENES[function.__name__] = function
    return function


@scene
def plain(exchange: Exchange) -> None:
    exchange.text("Hello", " there", ".", cache_read_input_tokens=40, cache_creation_input_tokens=8)


@scene
def remember(exchange: Exchange) -> None:
    """Tells whether the conversation began with `plain`."""
    exchange.text("We met." if exchange.received.said("[plain]") else "Who are you?")


@scene
def work(exchange: Exchange) -> None:
    """Thinks, writes a file, reads it, tells what it read."""
    results = exchange.received.results
    if not results:
        exchange.begin()
        exchange.block(
            {"type": "thinking", "thinking": "", "signature": ""},
            [("thinking_delta", "thinking", "A file."), ("signature_delta", "signature", "s")],
        )
        exchange.block(
            {"type": "text", "text": ""}, [("text_delta", "text", "I write a file first.")]
        )
        exchange.call_block("Write", {"file_path": "note.txt", "content": "forty-two\n"})
        exchange.end("tool_use")
    elif len(results) == 1:
        exchange.call(("Read", {"file_path": "note.txt"}))
    else:
        exchange.text("It says: ", _words(exchange))


@scene
def mend(exchange: Exchange) -> None:
    """Writes a value, and another one once a message says which is expected."""
    corrected = exchange.received.said("expected two")
    if len(exchange.received.results) <= corrected:
        exchange.call(("Write", {"file_path": "value", "content": "two" if corrected else "one"}))
    else:
        exchange.text("Done.")


@scene
def shell(exchange: Exchange) -> None:
    """Runs the command that the prompt has between bars, and repeats what it wrote."""
    if exchange.received.results:
        exchange.text(_words(exchange))
    else:
        exchange.call(("Bash", {"command": exchange.received.between_bars}))


@scene
def pair(exchange: Exchange) -> None:
    """Calls two tools at once; told to call one alone, it does."""
    results = exchange.received.results
    if not results:
        exchange.call(("Glob", {"pattern": "*"}), ("Bash", {"command": "echo alone"}))
    elif len(results) == 2:
        exchange.call(("Bash", {"command": "echo alone"}))
    else:
        exchange.text(_words(exchange))


@scene
def question(exchange: Exchange) -> None:
    """Asks a person which day."""
    if exchange.received.results:
        exchange.text(_words(exchange))
        return
    days = [{"label": day, "description": f"On {day}."} for day in ("Monday", "Friday")]
    asked = {"question": "Which day?", "header": "Day", "options": days, "multiSelect": False}
    exchange.call(("AskUserQuestion", {"questions": [asked]}))


@scene
def stubborn(exchange: Exchange) -> None:
    """Calls two tools at once, whatever it is told, until both have answered well."""
    results = exchange.received.results
    if results and not any(each.get("is_error") for each in results[-2:]):
        exchange.text(json.dumps(results[-2:]))
    else:
        exchange.call(("Glob", {"pattern": "*"}), ("Bash", {"command": "echo asked in place"}))


@scene
def escape(exchange: Exchange) -> None:
    """Tries to leave the working directory in every way it knows."""
    if exchange.received.results:
        exchange.text(json.dumps([each["is_error"] for each in exchange.received.results]))
        return
    exchange.call(
        ("Read", {"file_path": "/etc/hostname"}),
        ("Read", {"file_path": "../config/.claude.json"}),
        ("Read", {"file_path": "door/hostname"}),
        ("Write", {"file_path": "/tmp/celeriac-escaped", "content": "x"}),
        ("Glob", {"pattern": "/etc/*"}),
        ("Grep", {"pattern": "root", "path": "/etc"}),
    )


@scene
def calls(exchange: Exchange) -> None:
    """Makes the calls that the prompt has between bars, as JSON; repeats their answers."""
    if exchange.received.results:
        answers = [
            [bool(each.get("is_error")), _text(each["content"])]
            for each in sorted(exchange.received.results, key=_number)
        ]
        exchange.text(json.dumps(answers))
    else:
        exchange.call(*map(tuple, json.loads(exchange.received.between_bars)))


@scene
def steps(exchange: Exchange) -> None:
    """Runs the commands that the prompt has between bars, as JSON, in a call and answer each."""
    commands = json.loads(exchange.received.between_bars)
    done = sum("tool_result" in str(each) for each in exchange.received.body["messages"])
    if done < len(commands):
        exchange.call(("Bash", {"command": commands[done]}))
    else:
        exchange.text(_words(exchange))


@scene
def tool(exchange: Exchange) -> None:
    """Adds two numbers with a tool of the MCP server that the prompt has between bars."""
    if exchange.received.results:
        exchange.text(_words(exchange))
    else:
        exchange.call((f"mcp__{exchange.received.between_bars}__add", {"a": 40, "b": 2}))


@scene
def label(exchange: Exchange) -> None:
    """Labels its execution, adds with the server `tools`, and repeats what both answered."""
    results = exchange.received.results
    if not results:
        own = "mcp__celeriac-labels__label_execution"
        exchange.call(
            (own, {"labels": {"language": "en"}}),
            (own, {"labels": {"9": "x"}}),
            ("mcp__tools__add", {"a": 40, "b": 2}),
        )
    else:
        exchange.text(json.dumps([_text(each["content"]) for each in results]))


@scene
def structured(exchange: Exchange) -> None:
    if exchange.received.results:
        exchange.text("There it is.")
    else:
        exchange.call(("StructuredOutput", {"value": [3, 4]}))


@scene
def enormous(exchange: Exchange) -> None:
    if exchange.received.results:
        exchange.text("There it is.")
    else:
        exchange.call(("StructuredOutput", {"value": [3, 2**64]}))


@scene
def unstructured(exchange: Exchange) -> None:
    exchange.text("Three and four.")


@scene
def refused(exchange: Exchange) -> None:
    exchange.error(401, "authentication_error", f"invalid x-api-key {KEY}")


@scene
def limited(exchange: Exchange) -> None:
    exchange.error(429, "rate_limit_error", "Slow down", retry_after="17")


@scene
def down(exchange: Exchange) -> None:
    exchange.error(500, "api_error", "Oops", retry_after="0")


@scene
def overloaded(exchange: Exchange) -> None:
    """Busy at first."""
    if exchange.tries == 1:
        exchange.error(529, "overloaded_error", "Overloaded", retry_after="0")
    else:
        exchange.text("At last.")


@scene
def malformed(exchange: Exchange) -> None:
    exchange.begin()
    exchange.raw(b'event: content_block_delta\ndata: {"type": "content_bl\n\n')
    exchange.drop()


@scene
def truncated(exchange: Exchange) -> None:
    """Ends in good form, but without its end."""
    exchange.begin()
    exchange.event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    exchange.event(
        "content_block_delta", index=0, delta={"type": "text_delta", "text": "Half a sent"}
    )
    exchange.finish()


@scene
def stalled(exchange: Exchange) -> None:
    exchange.begin()
    exchange.wait_for_leave()


@scene
def slow(exchange: Exchange) -> None:
    """Longer in all than the watchdog's patience, never silent for so long."""
    exchange.begin()
    exchange.event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    for word in "each word comes in its own good time":
        time.sleep(0.08)
        exchange.event("content_block_delta", index=0, delta={"type": "text_delta", "text": word})
    exchange.event("content_block_stop", index=0)
    exchange.end("end_turn")


def _words(exchange: Exchange) -> str:
    """Return the newest tool result as text."""
    return _text(exchange.received.results[-1]["content"])


def _number(result: dict[str, Any]) -> int:
    """Return which of its answer's calls a result belongs to."""
    return int(result["tool_use_id"].rpartition("_")[2])


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(each.get("text", "") for each in content)
