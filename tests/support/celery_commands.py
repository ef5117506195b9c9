"""Celery's own command line, and programs of library users, beside a fleet.

Each is a process that imports all of Celeriac, about two seconds. What need not be a process of its
own uses `fleet.celery`, as `inspect` does.
"""

import json
import subprocess
import sys
from typing import Any

from celeriac.kit.json_types import JsonObject
from tests.support.fleet import Fleet

_SECONDS = 60


def celery(fleet: Fleet, *arguments: str, **env: str) -> str:
    """Run `celery -A celeriac …` to its end and return what it printed."""
    return run_python(fleet, "-m", "celery", "-A", "celeriac", *arguments, **env)


def inspect(fleet: Fleet, what: str, worker: str = "w1") -> Any:
    """Return what one worker answers to what `celery inspect` asks."""
    host = f"{worker}@fleet"
    asking = fleet.celery.control.inspect(destination=[host], timeout=30)
    answers = getattr(asking, what)()
    assert list(answers or ()) == [host], f"asked {host}, answered: {answers}"
    return answers[host]


def library_user(fleet: Fleet, program: str, **env: str) -> JsonObject:
    """Run a program that imports us and prints one JSON object; return that."""
    answer: JsonObject = json.loads(run_python(fleet, "-c", program, **env))
    return answer


def run_python(fleet: Fleet, *arguments: str, **env: str) -> str:
    """Run our Python in the fleet's environment; a test fails where that fails."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env=fleet.environment(**env),
        cwd=fleet.home,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{arguments} ended with {done.returncode}:\n{done.stderr}"
    return done.stdout
