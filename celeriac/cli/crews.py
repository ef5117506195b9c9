"""`celeriac crews`: CrewAI on this machine, and graphs of crews held against the rules.

`celeriac crews`: install CrewAI, look whether it is there, check a graph.

Builds CrewAI's own virtual environment from the lock that comes with this release.
"""

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
from typing import TYPE_CHECKING, Annotated

import typer

from celeriac.agents.crewai.venv import LOCK, QUIET, CrewVenv, State, crewai_version, lock_hash
from celeriac.cli.core.arguments import Home, Json
from celeriac.cli.core.output import CommandError, ExitCode, Output, size
from celeriac.kit.processes import launch, terminate_group
from celeriac.kit.words import counted

if TYPE_CHECKING:
    from celeriac.agents.crewai.venv import CrewVenv


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


def install_environment(venv: CrewVenv, *, tell: Tell, python: str = sys.executable) -> bool:
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


Venv = Annotated[
    Path | None,
    typer.Option(
        "--venv",
        metavar="DIRECTORY",
        help="Where CrewAI's virtual environment is; CELERIAC_CREWAI_VENV, or `crewai` in the "
        "home, if not given.",
        show_default=False,
    ),
]


def build_app() -> typer.Typer:
    """Return the group `crews`."""
    app = typer.Typer(name="crews", help="CrewAI on this machine, and crews before they run.")
    for command in (install, status, validate):
        app.command()(command)
    return app


def install(venv: Venv = None, home: Home = None, as_json: Json = False) -> None:
    """Build CrewAI's own virtual environment on this machine.

    Needed once on each machine whose workers run crews: CrewAI's libraries
    don't go together with Celeriac's. What is installed is pinned and hashed by
    this release; pip's own settings say where it comes from. Broken off, it is
    finished by running it again. Takes about 850 MB.

    Examples:
      celeriac crews install
      celeriac crews install --venv /opt/celeriac/crewai
    """
    from celeriac.agents.crewai.venv import crewai_version

    output = Output(as_json=as_json)
    place = _venv(venv, home)
    worked = install_environment(place, tell=output.say)
    if as_json:
        output.json({"venv": place.root, "crewai": crewai_version(), "installed": worked})
    else:
        output.raw(place.describe())


def status(venv: Venv = None, home: Home = None, as_json: Json = False) -> None:
    """Show whether this machine's workers can run crews. Exits with 1 where not."""
    from celeriac.agents.crewai.venv import State, crewai_version

    output = Output(as_json=as_json)
    place = _venv(venv, home)
    state = place.state()
    if as_json:
        output.json({"venv": place.root, "crewai": crewai_version(), "state": state})
    else:
        output.raw(place.describe())
    if state is not State.READY:
        raise typer.Exit(ExitCode.FAILED)


def validate(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A crew's graph as JSON; - for stdin.")
    ],
    as_json: Json = False,
) -> None:
    """Check a crew's graph; print what is wrong, by node, and the cure.

    Exits with 2 where anything is wrong. Nothing is sent anywhere.

    Examples:
      celeriac crews validate examples/crews/newsroom.json
    """
    from pydantic import ValidationError

    from celeriac.cli.core.arguments import parse_object, read_text
    from celeriac.domain.agents import CrewGraph

    output = Output(as_json=as_json)
    graph = None
    try:
        graph = CrewGraph.model_validate(parse_object(read_text(file), file))
        faults = [str(fault) for fault in graph.check()]
    except ValidationError as error:
        faults = _faults(error)
    if graph is None or faults:
        if as_json:
            output.json({"ok": False, "faults": faults})
            raise typer.Exit(ExitCode.USAGE)
        raise CrewFaultyError(
            "\n".join([f"the crew in {file} can't be run", *(f"  {each}" for each in faults)]),
            exit_code=ExitCode.USAGE,
        )
    if as_json:
        output.json({"ok": True, "faults": [], "variables": sorted(graph.variables)})
        return
    output.raw(
        f"The crew can be run: {counted(len(graph.tasks), 'task')}, "
        f"{counted(len(graph.agents), 'agent')}, "
        f"{graph.process.value}. It reads the variables: "
        f"{', '.join(sorted(graph.variables)) or 'none'}."
    )


class CrewFaultyError(CommandError):
    """A crew's graph has faults."""

    code = "invalid_input"


def _faults(error: object) -> list[str]:
    from pydantic import ValidationError

    assert isinstance(error, ValidationError)
    found: list[str] = []
    for fault in error.errors(include_url=False, include_input=False):
        listed = fault.get("ctx", {}).get("faults")
        if isinstance(listed, list):
            found.extend(map(str, listed))
        else:
            found.append(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}")
    return found


def _venv(place: Path | None, home: Path | None) -> "CrewVenv":
    from celeriac.agents.crewai.venv import CrewVenv

    if place is None:
        from celeriac.settings import Settings

        place = Settings.load(**({"home": home} if home else {})).crewai
    return CrewVenv(place.absolute())
