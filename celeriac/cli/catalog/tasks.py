"""`celeriac tasks`: named, reusable pieces of work."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from celeriac.cli.catalog.agents import show_resource
from celeriac.cli.core.arguments import (
    Assignments,
    Description,
    Limit,
    SpecFile,
    assign,
    begin_spec,
    json_argument,
    put,
    text_argument,
)
from celeriac.cli.core.context import CommandContext, api_command
from celeriac.cli.core.ids import TaskName
from celeriac.cli.core.output import short

if TYPE_CHECKING:
    from celeriac.wire import Task

app = typer.Typer(name="tasks", help="Tasks are named, reusable pieces of work for agents.")


_AGENT_HELP = "The name or id of the agent that does it."


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """Options that describe a task."""

    prompt: Annotated[
        str | None, typer.Option(help="The prompt; {{ name }} stands for a variable.")
    ] = None
    prompt_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="The prompt from a file; - for stdin.")
    ] = None
    variables_schema: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="JSON Schema of the variables: JSON, or a file with it."),
    ] = None
    output_schema: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="JSON Schema of the result: JSON, or a file with it."),
    ] = None
    description: Description = None
    spec: SpecFile = None
    assignments: Assignments = field(default_factory=list)

    def specification(self, current: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return `current` as the options change it. Raises UsageProblemError."""
        spec = begin_spec(self.spec, current)
        put(
            spec,
            prompt=text_argument(self.prompt, self.prompt_file, "--prompt"),
            variables_schema=json_argument(self.variables_schema, "--variables-schema"),
            output_schema=json_argument(self.output_schema, "--output-schema"),
        )
        assign(spec, self.assignments)
        return spec


@api_command(app, "list")
def list_tasks(
    context: CommandContext,
    limit: Limit = 50,
    active: Annotated[
        bool | None, typer.Option("--active/--inactive", help="Only active, or only inactive ones.")
    ] = None,
) -> None:
    """List the tasks of the workspace, the newest first."""
    context.output.write_list(
        context.client.tasks.list(active=active),
        ("NAME", "AGENT", "ACTIVE", "VERSION", "QUEUE", "CHANGED", "DESCRIPTION"),
        lambda task: (
            task.name,
            task.agent.name,
            task.active,
            task.version,
            task.spec.queue,
            task.updated_at,
            short(task.description),
        ),
        limit=limit,
        cut=("DESCRIPTION",),
        drop=("DESCRIPTION", "VERSION", "CHANGED", "QUEUE"),
    )


@api_command(app)
def show(context: CommandContext, task: TaskName) -> None:
    """Show a task with its whole specification."""
    _show(context, context.client.tasks.get(task))


@api_command(app)
def create(
    context: CommandContext,
    *,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Unique among your tasks.")],
    agent: Annotated[str, typer.Option("--agent", help=_AGENT_HELP)],
    options: TaskOptions,
    inactive: Annotated[
        bool, typer.Option("--inactive", help="It can't be run until it is activated.")
    ] = False,
) -> None:
    """Create a task.

    Examples:
      celeriac tasks create summarise --agent writer --prompt "Sum up: {{ text }}"
      celeriac tasks create triage --agent writer --prompt-file triage.txt
        --output-schema answer.schema.json --set limits.hard_seconds:=60
      celeriac tasks create score --agent scorer --set priority=high
    """
    task = context.client.tasks.create(
        name,
        agent,
        options.specification(),
        description=options.description or "",
        active=not inactive,
    )
    _show(context, task)


@api_command(app)
def update(
    context: CommandContext,
    *,
    task: TaskName,
    agent: Annotated[str | None, typer.Option("--agent", help=_AGENT_HELP)] = None,
    options: TaskOptions,
) -> None:
    """Change a task. What is not given stays as it is.

    Executions submitted from now on use the new version. Those that are pending
    or running keep theirs.

    Examples:
      celeriac tasks update summarise --prompt-file better.txt
      celeriac tasks update summarise --set retry.max_retries:=5
    """
    tasks = context.client.tasks
    spec = options.specification(tasks.get(task).spec.model_dump(mode="json"))
    _show(context, tasks.change(task, agent=agent, spec=spec, description=options.description))


@api_command(app)
def activate(context: CommandContext, task: TaskName) -> None:
    """Activate a task."""
    _show(context, context.client.tasks.change(task, active=True))


@api_command(app)
def deactivate(context: CommandContext, task: TaskName) -> None:
    """Deactivate a task: it takes no new executions. Existing ones continue."""
    _show(context, context.client.tasks.change(task, active=False))


@api_command(app)
def delete(
    context: CommandContext,
    task: TaskName,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="Cancel its executions that have not ended.")
    ] = False,
) -> None:
    """Delete a task with its budgets. Its executions stay, and its name is free.

    Refused while executions of it have not ended, unless --cancel is given.

    Examples:
      celeriac tasks delete summarise
      celeriac tasks delete summarise --cancel
    """
    context.client.tasks.delete(task, cancel=cancel)
    context.output.write({"task": task, "deleted": True}, f"deleted · task {task}")


def _show(context: CommandContext, task: "Task") -> None:
    show_resource(context, task, agent=task.agent.name, active=task.active)
