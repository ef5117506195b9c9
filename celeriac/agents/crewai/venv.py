"""CrewAI's virtual environment, and whether it fits this release.

CrewAI pins other versions of libraries that Celeriac needs, so the two share no environment. Its
packages are pinned and hashed in `requirements.lock`, beside this file.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path

LOCK = Path(__file__).with_name("requirements.lock")

QUIET = {
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "CREWAI_DISABLE_VERSION_CHECK": "true",
    "OTEL_SDK_DISABLED": "true",
}
"""The environment variables that turn CrewAI's telemetry off."""

INSTALL_HINT = "Run `celeriac crews install` on every machine that has workers."


class State(StrEnum):
    """The state of the environment."""

    READY = "ready"
    MISSING = "missing"
    UNFINISHED = "unfinished"
    """Its installation was broken off."""
    OUTDATED = "outdated"
    """Installed from another release's lock."""
    BROKEN = "broken"
    """Its Python is gone: it was moved, or the Python that it was made with was removed."""


@dataclass(frozen=True, slots=True)
class CrewVenv:
    """The environment at `root`."""

    root: Path

    @property
    def python(self) -> Path:
        """Its Python."""
        return self.root / "bin" / "python"

    @property
    def stamp(self) -> Path:
        """The file that says what was installed; it is written last."""
        return self.root / "celeriac-crewai.json"

    def state(self) -> State:
        """Return what is there; reads a small file."""
        if not self.root.exists():
            return State.MISSING
        try:
            stamped = json.loads(self.stamp.read_bytes())
        except (OSError, ValueError):
            return State.UNFINISHED
        if not isinstance(stamped, dict) or stamped.get("lock") != lock_hash():
            return State.OUTDATED
        return State.READY if self.python.exists() else State.BROKEN

    def describe(self) -> str:
        """Return the state in a sentence, with the remedy."""
        state = self.state()
        if state is State.READY:
            return f"CrewAI {crewai_version()} is installed at {self.root}."
        fault = {
            State.MISSING: f"CrewAI is not installed at {self.root}",
            State.UNFINISHED: f"The installation of CrewAI at {self.root} is not finished",
            State.OUTDATED: f"The CrewAI at {self.root} was installed by another release of "
            "Celeriac",
            State.BROKEN: f"The Python of the CrewAI at {self.root} is gone",
        }
        return f"{fault[state]}. {INSTALL_HINT}"


@lru_cache(maxsize=1)
def lock_hash() -> str:
    """Return the SHA-256 of the lock, in hexadecimal digits."""
    return hashlib.sha256(LOCK.read_bytes()).hexdigest()


@lru_cache(maxsize=1)
def crewai_version() -> str:
    """Return the version of CrewAI that the lock names."""
    found = re.search(r"^crewai==(\S+)", LOCK.read_text(), re.MULTILINE)
    assert found is not None, "the lock is made for crewai"
    return found[1]
