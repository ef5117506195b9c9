#!/usr/bin/env python3
"""A durable program: it counts once, sleeps until the next day, and counts again.

    CELERIAC_COMMANDS='{"nightly": ["/srv/celeriac/examples/command/nightly.py"]}'

The agent's spec is {"runner": "command", "command": "nightly", "durable": true}.
"""

import json
import sys


def ask(message: dict) -> dict:
    """Send a message and return the worker's reply; leave if the attempt is parked."""
    print(json.dumps({**message, "id": message["name"]}), flush=True)
    for line in sys.stdin:
        reply = json.loads(line)
        if reply["type"] == "park":
            print(json.dumps({"type": "park"}), flush=True)
            sys.exit()
        if reply.get("id") == message["name"]:
            return reply
    sys.exit("the worker has gone")


def step(name: str, function, *arguments):
    """Call a function once; later attempts get what it returned."""
    known = ask({"type": "step", "name": name})
    if known["state"] == "completed":
        return known["value"]
    value = function(*arguments)
    ask({"type": "step_done", "name": name, "value": value})
    return value


job = json.loads(sys.stdin.readline())["job"]
before = step("count before", len, job["prompt"])
ask({"type": "sleep", "name": "night", "seconds": job["variables"].get("seconds", 86_400)})
after = step("count after", len, job["prompt"])
print(json.dumps({"type": "result", "value": [before, after]}), flush=True)
