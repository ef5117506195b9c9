"""What the demo sets up and runs: read from the files in `examples/demo`."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import celeriac
from celeriac.cli.core.output import CommandError

_PACKAGED = "demo_files"
"""Where a wheel has the files; in a checkout they are in `examples/demo`."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Agents and tasks as the HTTP API takes them, and texts by name.

    Every task runs once for each text, which is its variable `text`.
    """

    agents: Sequence[Mapping[str, Any]]
    tasks: Sequence[Mapping[str, Any]]
    texts: Mapping[str, str]


def read_plan(directory: Path | None = None) -> Plan:
    """Return the plan in `directory`, or the one that comes with Celeriac.

    Raises CommandError where the files are missing or damaged.
    """
    place = directory or _find()
    try:
        plan = tomllib.loads((place / "demo.toml").read_text(encoding="utf-8"))
        texts = {
            path.stem: path.read_text(encoding="utf-8").strip()
            for path in sorted((place / "inputs").glob("*.txt"))
        }
        found = Plan(plan["agents"], plan["tasks"], texts)
    except (OSError, ValueError, KeyError) as error:
        raise CommandError(f"The demo's files in {place} can't be read: {error}") from error
    if not (found.agents and found.tasks and found.texts):
        raise CommandError(f"The demo's files in {place} name no agent, no task or no text.")
    return found


def _find() -> Path:
    packaged = Path(str(resources.files(celeriac) / _PACKAGED))
    checkout = Path(celeriac.__file__).parents[1] / "examples" / "demo"
    return packaged if packaged.is_dir() else checkout
