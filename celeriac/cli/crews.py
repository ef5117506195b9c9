"""`celeriac crews`: install CrewAI on this machine, show its state, and check graphs of crews.

CrewAI has a virtual environment of its own, built from the lock file of this release.
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
from celeriac.cli.core.server import load_own_settings
from celeriac.kit.processes import launch, terminate_group
from celeriac.kit.words import counted

if TYPE_CHECKING:
    from pydantic import ValidationError

app = typer.Typer(name="crews", help="CrewAI on this machine, and graphs of crews.")

Report = Callable[[str], None]

NEEDED_BYTES = 1_500_000_000
"""Required disk space: 1 GB for the packages, the rest for pip while it unpacks them."""

_NEWEST = (3, 14)
"""The first version of Python that CrewAI does not support."""
_LAST_LINES = 15
_COLLECTING = re.compile(r"^(?:Collecting|Processing (?:\S*/)?)\s*([A-Za-z0-9_.]+)")


class CrewaiInstallError(CommandError):
    """CrewAI's environment could not be built; the next try continues from there."""

    code = "crewai_install_failed"


def install_environment(venv: CrewVenv, *, report: Report, python: str = sys.executable) -> bool:
    """Build the environment, or complete it; return whether anything was missing.

    Calls `report` with one line for each step. A second installation at the same time waits.
    Raises CrewaiInstallError.
    """
    _require_python()
    venv.root.parent.mkdir(parents=True, exist_ok=True)
    with _exclusive(venv, report):
        state = venv.state()
        if state is State.READY:
            return False
        _require_space(venv.root.parent)
        if state is not State.UNFINISHED or not venv.python.exists():
            shutil.rmtree(venv.root, ignore_errors=True)
            report(f"Creating a virtual environment at {venv.root} ...")
            _run([python, "-m", "venv", str(venv.root)], lambda _: None)
        _install_packages(venv, report)
        report("Testing it ...")
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


def _require_space(place: Path) -> None:
    free = shutil.disk_usage(place).free
    if free < NEEDED_BYTES:
        raise CrewaiInstallError(
            f"There is too little disk space for CrewAI: {size(free)} are free at {place}, "
            f"{size(NEEDED_BYTES)} are needed.",
            cure="Free some space, or name another directory with --venv and CELERIAC_CREWAI_VENV.",
        )


@contextmanager
def _exclusive(venv: CrewVenv, report: Report) -> Iterator[None]:
    """Lock the directory against other installations, until the process ends at the latest."""
    place = os.open(venv.root.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("Waiting for another installation ...")
            fcntl.flock(place, fcntl.LOCK_EX)
        yield
    finally:
        os.close(place)


def _install_packages(venv: CrewVenv, report: Report) -> None:
    total = len(re.findall(r"^\S+==", LOCK.read_text(), re.MULTILINE))
    report(f"Installing CrewAI {crewai_version()}: up to {total} packages, about 850 MB ...")
    collected = 0

    def show(line: str) -> None:
        nonlocal collected
        if found := _COLLECTING.match(line):
            collected += 1
            report(f"[{collected}/{total}] {found[1]}")
        elif line.startswith("Installing collected packages"):
            report("Unpacking ...")

    arguments = ["--disable-pip-version-check", "--no-input", "install", "--progress-bar", "off"]
    # pinned, hashed and complete: nothing is resolved, and no build runs code of a package
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
    """Run a program and call `show` with each line of its output. Raises CrewaiInstallError."""
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


_CAUSES = (
    ("No space left on device", "The disk is full.", "Free some space and run this again."),
    (
        "DO NOT MATCH THE HASHES",
        "A package is not the one that this release was tested with.",
        "Check the package index that you use: it sent a file with another hash.",
    ),
    (
        "No module named venv|ensurepip is not available",
        "This Python can't make virtual environments.",
        "Install its venv module (on Debian and Ubuntu: python3-venv).",
    ),
    (
        (
            "No matching distribution found|Could not find a version|NewConnectionError|"
            "Temporary failure in name resolution|Network is unreachable|Read timed out|"
            "Connection refused"
        ),
        "The packages can't be fetched.",
        (
            "Check that this machine reaches a package index (pip's settings are used), and run "
            "this again: downloads are kept."
        ),
    ),
)
"""Expressions that match the output of pip, with the message and the cure."""


def _explained(code: int, last: str) -> CrewaiInstallError:
    for signs, message, cure in _CAUSES:
        if re.search(signs, last):
            return CrewaiInstallError(
                f"{message}\n{last}", cure=cure, exit_code=ExitCode.UNAVAILABLE
            )
    return CrewaiInstallError(f"The installation ended with exit code {code}.\n{last}")


Venv = Annotated[
    Path | None,
    typer.Option(
        "--venv",
        metavar="DIRECTORY",
        help="Directory of CrewAI's virtual environment; CELERIAC_CREWAI_VENV, or `crewai` in the "
        "home, if not given.",
        show_default=False,
    ),
]


@app.command()
def install(venv: Venv = None, home: Home = None, as_json: Json = False) -> None:
    """Build CrewAI's own virtual environment on this machine.

    Needed once on each machine whose workers run crews, because CrewAI's
    dependencies conflict with Celeriac's. This release pins and hashes all
    packages; they come from pip's package index. After an interruption, run it
    again. Takes about 850 MB.

    Examples:
      celeriac crews install
      celeriac crews install --venv /opt/celeriac/crewai
    """
    output = Output(as_json=as_json)
    place = _venv(venv, home)
    installed = install_environment(place, report=output.say)
    values = {"venv": place.root, "crewai": crewai_version(), "installed": installed}
    output.write(values, place.describe())


@app.command()
def status(venv: Venv = None, home: Home = None, as_json: Json = False) -> None:
    """Show whether this machine's workers can run crews. Exits with 1 if not."""
    place = _venv(venv, home)
    state = place.state()
    values = {"venv": place.root, "crewai": crewai_version(), "state": state}
    Output(as_json=as_json).write(values, place.describe())
    if state is not State.READY:
        raise typer.Exit(ExitCode.FAILED)


@app.command()
def validate(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A crew's graph as JSON; - for stdin.")
    ],
    as_json: Json = False,
) -> None:
    """Check a crew's graph; print the faults by node, with their cures.

    Exits with 2 if there are any. Needs no server.

    Examples:
      celeriac crews validate examples/crews/newsroom.json
    """
    from pydantic import ValidationError

    from celeriac.cli.core.arguments import parse_object, read_text
    from celeriac.domain.crews import CrewGraph

    output = Output(as_json=as_json)
    graph = None
    try:
        graph = CrewGraph.model_validate(parse_object(read_text(file), file))
        faults = [str(fault) for fault in graph.check()]
    except ValidationError as error:
        faults = _faults(error)
    if graph is None or faults:
        output.json({"ok": False, "faults": faults})
        if as_json:
            raise typer.Exit(ExitCode.USAGE)
        raise CommandError(
            "\n".join([f"the crew in {file} can't be run", *(f"  {each}" for each in faults)]),
            exit_code=ExitCode.USAGE,
            problem="invalid_input",
        )
    variables = sorted(graph.variables)
    output.write(
        {"ok": True, "faults": [], "variables": variables},
        f"The crew can be run: {counted(len(graph.tasks), 'task')}, "
        f"{counted(len(graph.agents), 'agent')}, "
        f"{graph.process.value}. Its variables: {', '.join(variables) or 'none'}.",
    )


def _faults(error: "ValidationError") -> list[str]:
    found: list[str] = []
    for fault in error.errors(include_url=False, include_input=False):
        listed = fault.get("ctx", {}).get("faults")
        if isinstance(listed, list):
            found.extend(map(str, listed))
        else:
            found.append(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}")
    return found


def _venv(place: Path | None, home: Path | None) -> CrewVenv:
    return CrewVenv((place or load_own_settings(home).crewai).absolute())
