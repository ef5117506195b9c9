"""Builds CrewAI's own virtual environment from the lock that comes with this release."""

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from celeriac.agents.crewai.venv import LOCK, QUIET, CrewVenv, State, crewai_version, lock_hash
from celeriac.cli.exits import CommandError, ExitCode
from celeriac.cli.formatting import size
from celeriac.kit.process import launch, terminate_group

Tell = Callable[[str], None]

NEEDED_BYTES = 1_500_000_000
"""Room that is asked for: 1 GB stays, and pip unpacks beside it."""

_NEWEST = (3, 14)
"""CrewAI runs on older Pythons than this."""
_LAST_LINES = 15
_COLLECTING = re.compile(r"^(?:Collecting|Processing (?:\S*/)?)\s*([A-Za-z0-9_.]+)")


class CrewaiInstallError(CommandError):
    """CrewAI's environment could not be built; what was done is kept for the next try."""

    code = "crewai_install_failed"


def install(venv: CrewVenv, *, tell: Tell, python: str = sys.executable) -> bool:
    """Build the environment, or finish one that was begun; return whether there was work.

    `tell` is given one line for each step. Safe to run twice at once: the second waits. Raises
    CrewaiInstallError that says what to do.
    """
    _require_python()
    venv.root.parent.mkdir(parents=True, exist_ok=True)
    with _alone(venv, tell):
        state = venv.state()
        if state is State.READY:
            return False
        _require_room(venv.root.parent)
        if state is not State.UNFINISHED or not venv.python.exists():
            shutil.rmtree(venv.root, ignore_errors=True)
            tell(f"Making a virtual environment at {venv.root} ...")
            _run([python, "-m", "venv", str(venv.root)], lambda _: None)
        _install_packages(venv, tell)
        tell("Trying it out ...")
        _try(venv)
        stamp = {"lock": lock_hash(), "crewai": crewai_version(), "python": sys.version.split()[0]}
        part = venv.stamp.with_suffix(".part")
        part.write_text(json.dumps(stamp) + "\n")
        part.replace(venv.stamp)
    return True


def _require_python() -> None:
    if sys.version_info >= _NEWEST:
        raise CrewaiInstallError(
            f"CrewAI {crewai_version()} needs a Python older than {'.'.join(map(str, _NEWEST))}; "
            f"this one is {sys.version.split()[0]}.",
            cure="Install Celeriac with Python 3.11, 3.12 or 3.13 on the machines of the workers.",
        )


def _require_room(place: Path) -> None:
    free = shutil.disk_usage(place).free
    if free < NEEDED_BYTES:
        raise CrewaiInstallError(
            f"There is too little room for CrewAI: {size(free)} are free at {place}, "
            f"{size(NEEDED_BYTES)} are needed.",
            cure="Free some space, or name another place with --venv (and CELERIAC_CREWAI_VENV).",
        )


@contextmanager
def _alone(venv: CrewVenv, tell: Tell) -> Iterator[None]:
    """Hold the place against other installations; the system lets go of it with the process."""
    place = os.open(venv.root.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell("Waiting for another installation ...")
            fcntl.flock(place, fcntl.LOCK_EX)
        yield
    finally:
        os.close(place)


def _install_packages(venv: CrewVenv, tell: Tell) -> None:
    total = len(re.findall(r"^\S+==", LOCK.read_text(), re.MULTILINE))
    tell(f"Installing CrewAI {crewai_version()}: up to {total} packages, about 850 MB ...")
    collected = 0

    def show(line: str) -> None:
        nonlocal collected
        if found := _COLLECTING.match(line):
            collected += 1
            tell(f"[{collected}/{total}] {found[1]}")
        elif line.startswith("Installing collected packages"):
            tell("Unpacking ...")

    arguments = ["--disable-pip-version-check", "--no-input", "install", "--progress-bar", "off"]
    # Pinned, hashed and complete: nothing is resolved, and nothing of a package runs to build it.
    arguments += ["--require-hashes", "--no-deps", "--only-binary", ":all:", "-r", str(LOCK)]
    _run([str(venv.python), "-m", "pip", *arguments], show)


def _try(venv: CrewVenv) -> None:
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, **QUIET, "HOME": home, "CREWAI_STORAGE_DIR": home}
        said: list[str] = []
        program = "import crewai; print('crewai', crewai.__version__)"
        _run([str(venv.python), "-P", "-c", program], said.append, environment)
    if f"crewai {crewai_version()}" not in said:
        raise CrewaiInstallError(
            f"The environment at {venv.root} has another CrewAI than {crewai_version()}: "
            f"{' '.join(said)}",
            cure=f"Remove {venv.root} and run this again.",
        )


def _run(
    command: list[str], show: Callable[[str], None], environment: Mapping[str, str] | None = None
) -> None:
    """Run a program to its end, each line of it given to `show`; raises for a failure."""
    last: deque[str] = deque(maxlen=_LAST_LINES)
    process = launch(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            text = line.decode(errors="replace").rstrip()
            last.append(text)
            show(text)
        code = process.wait()
    finally:
        terminate_group(process.pid, 1.0)
        process.wait()
        process.stdout.close()
    if code != 0:
        raise _explained(code, "\n".join(last))


_FETCH_CURE = (
    "See that this machine reaches a package index (pip's settings are used), and run this again: "
    "what was fetched is kept."
)
_CAUSES = (
    ("No space left on device", "The disk is full.", "Free some space and run this again."),
    (
        "DO NOT MATCH THE HASHES",
        "A package is not the one that this release was tested with.",
        "Look into what serves your packages: it sent a file with another hash.",
    ),
    (
        "No module named venv",
        "This Python can't make virtual environments.",
        "Install its venv module (on Debian and Ubuntu: python3-venv).",
    ),
    (
        "ensurepip is not available",
        "This Python can't make virtual environments.",
        "Install its venv module (on Debian and Ubuntu: python3-venv).",
    ),
    *(
        (sign, "The packages can't be fetched.", _FETCH_CURE)
        for sign in (
            "No matching distribution found",
            "Could not find a version",
            "NewConnectionError",
            "Temporary failure in name resolution",
            "Network is unreachable",
            "Read timed out",
            "Connection refused",
        )
    ),
)


def _explained(code: int, last: str) -> CrewaiInstallError:
    for sign, message, cure in _CAUSES:
        if sign in last:
            return CrewaiInstallError(
                f"{message}\n{last}", cure=cure, exit_code=ExitCode.UNAVAILABLE
            )
    return CrewaiInstallError(f"The installation ended with exit code {code}.\n{last}")
