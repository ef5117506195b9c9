"""`celeriac crews`: install CrewAI, look whether it is there, check a graph."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from celeriac.cli.exits import CommandError, ExitCode
from celeriac.cli.options import Home, Json
from celeriac.cli.output import Output

if TYPE_CHECKING:
    from celeriac.agents.crewai.venv import CrewVenv

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
    from celeriac.cli.crews.installer import install as build

    output = Output(as_json=as_json)
    place = _venv(venv, home)
    worked = build(place, tell=output.say)
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

    from celeriac.cli.variables import parse_object, read_text
    from celeriac.domain.agent import CrewGraph

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
        f"The crew can be run: {len(graph.tasks)} tasks, {len(graph.agents)} agents, "
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
