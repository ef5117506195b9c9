"""`celeriac agents`: who does the work."""

from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from celeriac.cli.core.arguments import (
    Assignments,
    Limit,
    SpecFile,
    assign,
    begin_spec,
    parse_object,
    put,
    read_text,
    text_argument,
)
from celeriac.cli.core.context import CommandContext, open_client
from celeriac.cli.core.output import UsageProblemError, moment, plain, short
from celeriac.cli.tool_servers import Allowed, Approved, Servers, put_servers
from celeriac.kit.words import counted

if TYPE_CHECKING:
    from celeriac.wire import Agent

AgentName = Annotated[str, typer.Argument(metavar="AGENT", help="The agent's name or id.")]
Model = Annotated[
    str | None,
    typer.Option(metavar="PROVIDER/MODEL", help="A language model, such as local/smollm2."),
]
Function = Annotated[
    str | None,
    typer.Option(metavar="MODULE:FUNCTION", help="A Python function that the workers can import."),
]
Command = Annotated[
    str | None,
    typer.Option(metavar="COMMAND", help="A program of the workers' CELERIAC_COMMANDS."),
]
Crew = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="A crew of agents: its graph as JSON; - for stdin."),
]
Claude = Annotated[
    bool, typer.Option("--claude", help="Claude Code; --model then names one of Anthropic's.")
]
Instructions = Annotated[str | None, typer.Option(help="What the model is told in every run.")]
InstructionsFile = Annotated[
    str | None, typer.Option(metavar="FILE", help="The instructions from a file; - for stdin.")
]
Description = Annotated[str | None, typer.Option(help="What it is for.")]
_SHORT = 60


def build_app() -> typer.Typer:
    """Return the group `agents`."""
    app = typer.Typer(name="agents", help="Who does the work: models, functions, programs.")
    app.command("list")(list_agents)
    for command in (show, create, update, delete):
        app.command()(command)
    return app


@open_client
def list_agents(session: CommandContext, limit: Limit = 50) -> None:
    """List your agents, the newest first; an admin sees everybody's."""
    found = list(islice(session.client.agents.list(), limit))
    if session.output.as_json:
        session.output.json(found)
        return
    session.output.table(
        ("NAME", "RUNNER", "WHO", "VERSION", "CHANGED", "DESCRIPTION"),
        (
            (
                agent.name,
                agent.spec.runner,
                _who(agent),
                str(agent.version),
                moment(agent.updated_at),
                short(agent.description, _SHORT),
            )
            for agent in found
        ),
        cut=("WHO", "DESCRIPTION"),
        drop=("DESCRIPTION", "VERSION", "CHANGED"),
    )


@open_client
def show(session: CommandContext, agent: AgentName) -> None:
    """Show an agent with its whole specification."""
    _show(session, session.client.agents.get(agent))


@open_client
def create(
    session: CommandContext,
    *,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Unique among your agents.")],
    model: Model = None,
    function: Function = None,
    command: Command = None,
    crew: Crew = None,
    claude: Claude = False,
    instructions: Instructions = None,
    instructions_file: InstructionsFile = None,
    mcp: Servers = [],  # noqa: B006 - Typer copies it
    allow_tool: Allowed = [],  # noqa: B006
    approve_tool: Approved = [],  # noqa: B006
    description: Description = None,
    spec: SpecFile = None,
    assignments: Assignments = [],  # noqa: B006 - Typer copies it
) -> None:
    """Make an agent: a language model, a function of yours, a program, a crew, Claude Code.

    Examples:
      celeriac agents create writer --model local/smollm2
      celeriac agents create careful --model openai/gpt-5-mini
        --instructions "You answer in one sentence." --set temperature:=0
      celeriac agents create clerk --model openai/gpt-5-mini --mcp crm
        --allow-tool 'crm:read_*' --approve-tool crm:send_mail
      celeriac agents create scorer --function shop.agents:score_lead
      celeriac agents create counter --command word-count
        --set arguments:='["--language", "en"]'
      celeriac agents create newsroom --crew examples/crews/newsroom.json
      celeriac agents create coder --claude --model claude-sonnet-4-5
        --set permission=ask --set allowed_tools:='["Read", "Edit", "Grep"]'
    """
    made = begin_spec(spec)
    _fill(made, claude=claude, model=model, function=function, command=command, crew=_graph(crew))
    put(made, instructions=text_argument(instructions, instructions_file, "--instructions"))
    put_servers(made, mcp, allow_tool, approve_tool)
    assign(made, assignments)
    if "runner" not in made:
        raise UsageProblemError(
            "It is not said what the agent is.",
            cure="Give --model for a language model, --function for a Python function, "
            "--command for a program, --crew for a crew, --claude for Claude Code, or --spec.",
        )
    _show(session, session.client.agents.create(name, made, description=description or ""))


@open_client
def update(
    session: CommandContext,
    *,
    agent: AgentName,
    model: Model = None,
    function: Function = None,
    command: Command = None,
    crew: Crew = None,
    claude: Claude = False,
    instructions: Instructions = None,
    instructions_file: InstructionsFile = None,
    mcp: Servers = [],  # noqa: B006 - Typer copies it
    allow_tool: Allowed = [],  # noqa: B006
    approve_tool: Approved = [],  # noqa: B006
    description: Description = None,
    spec: SpecFile = None,
    assignments: Assignments = [],  # noqa: B006 - Typer copies it
) -> None:
    """Change an agent; what is not given stays as it is.

    Executions submitted from now on use the new version; those that run or
    wait keep theirs.

    Examples:
      celeriac agents update writer --instructions-file house-style.txt
      celeriac agents update writer --set max_output_tokens:=200
    """
    current = session.client.agents.get(agent).spec.model_dump(mode="json")
    made = begin_spec(spec, current)
    _fill(made, claude=claude, model=model, function=function, command=command, crew=_graph(crew))
    put(made, instructions=text_argument(instructions, instructions_file, "--instructions"))
    put_servers(made, mcp, allow_tool, approve_tool)
    assign(made, assignments)
    _show(session, session.client.agents.change(agent, spec=made, description=description))


@open_client
def delete(session: CommandContext, agent: AgentName) -> None:
    """Delete an agent that no task uses; what it did stays, and its name is free.

    Examples:
      celeriac agents delete writer
    """
    session.client.agents.delete(agent)
    if session.output.as_json:
        session.output.json({"agent": agent, "deleted": True})
    else:
        session.output.raw(f"deleted · agent {agent}")


_RUNNERS = {"model": "llm", "function": "python", "command": "command", "crew": "crewai"}
"""Which runner an option stands for, which is also the field of its specification."""


def _fill(spec: dict[str, Any], *, claude: bool, **options: Any) -> None:
    """Put what an agent is into `spec`; raises UsageProblemError where it would be two things."""
    given = {name: value for name, value in options.items() if value is not None}
    if given.keys() <= {"model"} and (claude or spec.get("runner") == "claude"):
        put(spec, runner="claude", **given)
        return
    if claude:
        given = {"claude": True, **given}
    if len(given) > 1:
        names = " or ".join(f"--{name}" for name in given)
        raise UsageProblemError(f"An agent is {names}, not several of them.")
    for name, value in given.items():
        put(spec, runner=_RUNNERS[name], **{name: value})


def _graph(file: str | None) -> dict[str, Any] | None:
    return None if file is None else parse_object(read_text(file), file)


def _who(agent: "Agent") -> str:
    from celeriac.domain.agents import CrewaiAgent

    spec = agent.spec
    if isinstance(spec, CrewaiAgent):
        return f"{counted(len(spec.crew.tasks), 'task')}, {spec.crew.process}"
    return str(next((getattr(spec, name) for name in _RUNNERS if hasattr(spec, name)), "") or "")


def _show(session: CommandContext, agent: "Agent") -> None:
    if session.output.as_json:
        session.output.json(agent)
        return
    session.output.fields(
        {
            "name": agent.name,
            "id": str(agent.id),
            "version": str(agent.version),
            "description": agent.description,
            "created": moment(agent.created_at),
            "changed": moment(agent.updated_at),
            "spec": plain(agent.spec.model_dump(mode="json", exclude_none=True)),
        }
    )
    for warning in agent.warnings:
        session.output.say(f"warning: {warning}")
