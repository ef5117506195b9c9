"""`celeriac agents`: models, functions, programs and crews that do the work."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from celeriac.cli.core.arguments import (
    Assignments,
    Description,
    Limit,
    SpecFile,
    assign,
    begin_spec,
    parse_object,
    put,
    read_text,
    text_argument,
)
from celeriac.cli.core.context import CommandContext, api_command
from celeriac.cli.core.ids import AgentName
from celeriac.cli.core.output import UsageProblemError, plain, short
from celeriac.kit.words import counted

if TYPE_CHECKING:
    from celeriac.wire import Agent, Task

app = typer.Typer(name="agents", help="Agents do the work: models, functions, programs, crews.")


_RUNNERS = {"model": "llm", "function": "python", "command": "command", "crew": "crewai"}
"""The runner for each option, which is also a field of the specification."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentOptions:
    """Options that describe an agent."""

    model: Annotated[
        str | None,
        typer.Option(metavar="PROVIDER/MODEL", help="A language model, such as local/smollm2."),
    ] = None
    function: Annotated[
        str | None,
        typer.Option(metavar="MODULE:FUNCTION", help="A Python function that workers can import."),
    ] = None
    command: Annotated[
        str | None,
        typer.Option(metavar="COMMAND", help="A program of the workers' CELERIAC_COMMANDS."),
    ] = None
    crew: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="A crew of agents: its graph as JSON; - for stdin."),
    ] = None
    claude: Annotated[
        bool, typer.Option("--claude", help="Claude Code; --model then names one of Anthropic's.")
    ] = False
    instructions: Annotated[str | None, typer.Option(help="Instructions for the model.")] = None
    instructions_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="The instructions from a file; - for stdin.")
    ] = None
    mcp: Annotated[
        list[str],
        typer.Option(
            metavar="NAME[=URL]",
            help="An MCP server of the workers' CELERIAC_MCP_SERVERS, or one with a URL.",
        ),
    ] = field(default_factory=list)
    allow_tool: Annotated[
        list[str],
        typer.Option(
            metavar="NAME:PATTERN",
            help="Tools of that server that the agent may use; all of them if not given.",
        ),
    ] = field(default_factory=list)
    approve_tool: Annotated[
        list[str],
        typer.Option(
            metavar="NAME:PATTERN",
            help="Tools of that server whose every call a person must approve.",
        ),
    ] = field(default_factory=list)
    description: Description = None
    spec: SpecFile = None
    assignments: Assignments = field(default_factory=list)

    def specification(self, current: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return `current` as the options change it. Raises UsageProblemError."""
        spec = begin_spec(self.spec, current)
        self._put_runner(spec)
        put(
            spec,
            instructions=text_argument(self.instructions, self.instructions_file, "--instructions"),
        )
        self._put_servers(spec)
        assign(spec, self.assignments)
        return spec

    def _put_runner(self, spec: dict[str, Any]) -> None:
        given = {name: getattr(self, name) for name in _RUNNERS}
        given = {name: value for name, value in given.items() if value is not None}
        if given.keys() <= {"model"} and (self.claude or spec.get("runner") == "claude"):
            spec |= {"runner": "claude", **given}
            return
        names = [*(["claude"] if self.claude else []), *given]
        if len(names) > 1:
            options = " or ".join(f"--{name}" for name in names)
            raise UsageProblemError(f"An agent is {options}, not several of them.")
        if self.crew is not None:
            given["crew"] = parse_object(read_text(self.crew), self.crew)
        for name, value in given.items():
            spec |= {"runner": _RUNNERS[name], name: value}

    def _put_servers(self, spec: dict[str, Any]) -> None:
        """Set the MCP servers of `spec` if there are any; they replace earlier ones."""
        entries: dict[str, dict[str, Any]] = {}
        for server in self.mcp:
            name, _, url = server.partition("=")
            entries[name] = {"name": name, **({"url": url} if url else {})}
        tools = [("--allow-tool", "allowed_tools", each) for each in self.allow_tool]
        tools += [("--approve-tool", "approve_tools", each) for each in self.approve_tool]
        for option, key, pattern in tools:
            name, _, tool = pattern.partition(":")
            if name not in entries or not tool:
                server = name or "NAME"
                raise UsageProblemError(
                    f"{option} {pattern}: there is no server {name!r}, or no tool is named.",
                    cure=f"Give --mcp {server} and {option} {server}:PATTERN.",
                )
            entries[name].setdefault(key, []).append(tool)
        if entries:
            spec["mcp_servers"] = list(entries.values())


@api_command(app, "list")
def list_agents(context: CommandContext, limit: Limit = 50) -> None:
    """List the agents of the workspace, the newest first."""
    context.output.write_list(
        context.client.agents.list(),
        ("NAME", "RUNNER", "WHO", "VERSION", "CHANGED", "DESCRIPTION"),
        lambda agent: (
            agent.name,
            agent.spec.runner,
            _who(agent),
            agent.version,
            agent.updated_at,
            short(agent.description),
        ),
        limit=limit,
        cut=("WHO", "DESCRIPTION"),
        drop=("DESCRIPTION", "VERSION", "CHANGED"),
    )


@api_command(app)
def show(context: CommandContext, agent: AgentName) -> None:
    """Show an agent with its whole specification."""
    _show(context, context.client.agents.get(agent))


@api_command(app)
def create(
    context: CommandContext,
    *,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Unique among your agents.")],
    options: AgentOptions,
) -> None:
    """Create an agent: a language model, a Python function, a program, a crew, Claude Code.

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
    spec = options.specification()
    if "runner" not in spec:
        raise UsageProblemError(
            "The kind of agent is missing.",
            cure="Give --model for a language model, --function for a Python function, "
            "--command for a program, --crew for a crew, --claude for Claude Code, or --spec.",
        )
    agents = context.client.agents
    _show(context, agents.create(name, spec, description=options.description or ""))


@api_command(app)
def update(context: CommandContext, *, agent: AgentName, options: AgentOptions) -> None:
    """Change an agent. What is not given stays as it is.

    Executions submitted from now on use the new version. Those that are pending
    or running keep theirs.

    Examples:
      celeriac agents update writer --instructions-file house-style.txt
      celeriac agents update writer --set max_output_tokens:=200
    """
    agents = context.client.agents
    spec = options.specification(agents.get(agent).spec.model_dump(mode="json"))
    _show(context, agents.change(agent, spec=spec, description=options.description))


@api_command(app)
def delete(context: CommandContext, agent: AgentName) -> None:
    """Delete an agent that no task uses. Its executions stay, and its name is free.

    Examples:
      celeriac agents delete writer
    """
    context.client.agents.delete(agent)
    context.output.write({"agent": agent, "deleted": True}, f"deleted · agent {agent}")


def show_resource(context: CommandContext, found: "Agent | Task", **more: object) -> None:
    """Write an agent or a task with its specification, and `more` fields after its id."""
    context.output.write_details(
        found,
        {
            "name": found.name,
            "id": found.id,
            **more,
            "version": found.version,
            "description": found.description,
            "created": found.created_at,
            "changed": found.updated_at,
            "spec": plain(found.spec.model_dump(mode="json", exclude_none=True)),
        },
    )


def _who(agent: "Agent") -> str:
    from celeriac.domain.agents import CrewaiAgent

    spec = agent.spec
    if isinstance(spec, CrewaiAgent):
        return f"{counted(len(spec.crew.tasks), 'task')}, {spec.crew.process}"
    return str(next((getattr(spec, name) for name in _RUNNERS if hasattr(spec, name)), "") or "")


def _show(context: CommandContext, agent: "Agent") -> None:
    show_resource(context, agent)
    for warning in agent.warnings:
        context.output.say(f"warning: {warning}")
