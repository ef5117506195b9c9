"""Celery's own command line, and programs of library users, beside a fleet."""

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


def inspect(fleet: Fleet, what: str, worker: str = "w1", *arguments: str) -> Any:
    """Return what one worker answers to `celery inspect`."""
    host = f"{worker}@fleet"
    answers = json.loads(
        celery(fleet, "inspect", what, "--destination", host, "--json", *arguments)
    )
    assert list(answers) == [host], f"asked {host}, answered: {list(answers)}"
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
