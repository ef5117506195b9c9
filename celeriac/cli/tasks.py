"""`celeriac tasks`: named, reusable pieces of work."""

from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from celeriac.cli.core.arguments import (
    Assignments,
    Limit,
    SpecFile,
    assign,
    begin_spec,
    json_argument,
    put,
    text_argument,
)
from celeriac.cli.core.context import CommandContext, open_client
from celeriac.cli.core.output import moment, plain, short
from celeriac.cli.run import run

if TYPE_CHECKING:
    from celeriac.wire import Task

TaskName = Annotated[str, typer.Argument(metavar="TASK", help="The task's name or id.")]
AgentName = Annotated[
    str | None, typer.Option("--agent", help="Who does it: the agent's name or id.")
]
Description = Annotated[str | None, typer.Option(help="What it is for.")]
Prompt = Annotated[
    str | None, typer.Option(help="What the agent is told; {{ name }} stands for a variable.")
]
PromptFile = Annotated[
    str | None, typer.Option(metavar="FILE", help="The prompt from a file; - for stdin.")
]
VariablesSchema = Annotated[
    str | None,
    typer.Option(metavar="JSON", help="JSON Schema of the variables: JSON, or a file with it."),
]
OutputSchema = Annotated[
    str | None,
    typer.Option(metavar="JSON", help="JSON Schema of the result: JSON, or a file with it."),
]
_SHORT = 60


def build_app() -> typer.Typer:
    """Return the group `tasks`."""
    app = typer.Typer(name="tasks", help="What agents do: make, look at, change and delete tasks.")
    app.command("list")(list_tasks)
    for command in (show, create, update, activate, deactivate, delete, run):
        app.command()(command)
    return app


@open_client
def list_tasks(
    session: CommandContext,
    limit: Limit = 50,
    active: Annotated[
        bool | None,
        typer.Option("--active/--inactive", help="Only those switched on, or off."),
    ] = None,
) -> None:
    """List your tasks, the newest first; an admin sees everybody's."""
    found = list(islice(session.client.tasks.list(active=active), limit))
    if session.output.as_json:
        session.output.json(found)
        return
    session.output.table(
        ("NAME", "AGENT", "ACTIVE", "VERSION", "QUEUE", "CHANGED", "DESCRIPTION"),
        (
            (
                task.name,
                task.agent.name,
                "yes" if task.active else "no",
                str(task.version),
                task.spec.queue,
                moment(task.updated_at),
                short(task.description, _SHORT),
            )
            for task in found
        ),
        cut=("DESCRIPTION",),
        drop=("DESCRIPTION", "VERSION", "CHANGED", "QUEUE"),
    )


@open_client
def show(session: CommandContext, task: TaskName) -> None:
    """Show a task with its whole specification."""
    _show(session, session.client.tasks.get(task))


@open_client
def create(
    session: CommandContext,
    *,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Unique among your tasks.")],
    agent: Annotated[str, typer.Option("--agent", help="Who does it: the agent's name or id.")],
    prompt: Prompt = None,
    prompt_file: PromptFile = None,
    variables_schema: VariablesSchema = None,
    output_schema: OutputSchema = None,
    description: Description = None,
    spec: SpecFile = None,
    assignments: Assignments = [],  # noqa: B006 - Typer copies it
    inactive: Annotated[bool, typer.Option("--inactive", help="Not to be run yet.")] = False,
) -> None:
    """Make a task.

    Examples:
      celeriac tasks create summarise --agent writer --prompt "Sum up: {{ text }}"
      celeriac tasks create triage --agent writer --prompt-file triage.txt
        --output-schema answer.schema.json --set limits.hard_seconds:=60
      celeriac tasks create score --agent scorer --set priority=high
    """
    made = begin_spec(spec)
    _fill(made, prompt, prompt_file, variables_schema, output_schema)
    assign(made, assignments)
    task = session.client.tasks.create(
        name, agent, made, description=description or "", active=not inactive
    )
    _show(session, task)


@open_client
def update(
    session: CommandContext,
    *,
    task: TaskName,
    agent: AgentName = None,
    prompt: Prompt = None,
    prompt_file: PromptFile = None,
    variables_schema: VariablesSchema = None,
    output_schema: OutputSchema = None,
    description: Description = None,
    spec: SpecFile = None,
    assignments: Assignments = [],  # noqa: B006 - Typer copies it
) -> None:
    """Change a task; what is not given stays as it is.

    Executions submitted from now on use the new version; those that run or
    wait keep theirs.

    Examples:
      celeriac tasks update summarise --prompt-file better.txt
      celeriac tasks update summarise --set retry.max_retries:=5
    """
    current = session.client.tasks.get(task).spec.model_dump(mode="json")
    made = begin_spec(spec, current)
    _fill(made, prompt, prompt_file, variables_schema, output_schema)
    assign(made, assignments)
    changed = session.client.tasks.change(task, agent=agent, spec=made, description=description)
    _show(session, changed)


@open_client
def activate(session: CommandContext, task: TaskName) -> None:
    """Switch a task on."""
    _show(session, session.client.tasks.change(task, active=True))


@open_client
def deactivate(session: CommandContext, task: TaskName) -> None:
    """Switch a task off: it takes no new executions; those that it has go on."""
    _show(session, session.client.tasks.change(task, active=False))


@open_client
def delete(
    session: CommandContext,
    task: TaskName,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="Cancel its executions that have not ended.")
    ] = False,
) -> None:
    """Delete a task with its budgets; its executions stay, and its name is free.

    Refused while executions of it have not ended, unless --cancel ends them.

    Examples:
      celeriac tasks delete summarise
      celeriac tasks delete summarise --cancel
    """
    session.client.tasks.delete(task, cancel=cancel)
    if session.output.as_json:
        session.output.json({"task": task, "deleted": True})
    else:
        session.output.raw(f"deleted · task {task}")


def _fill(
    spec: dict[str, object],
    prompt: str | None,
    prompt_file: str | None,
    variables_schema: str | None,
    output_schema: str | None,
) -> None:
    put(
        spec,
        prompt=text_argument(prompt, prompt_file, "--prompt"),
        variables_schema=json_argument(variables_schema, "--variables-schema"),
        output_schema=json_argument(output_schema, "--output-schema"),
    )


def _show(session: CommandContext, task: "Task") -> None:
    if session.output.as_json:
        session.output.json(task)
        return
    session.output.fields(
        {
            "name": task.name,
            "id": str(task.id),
            "agent": task.agent.name,
            "active": "yes" if task.active else "no",
            "version": str(task.version),
            "description": task.description,
            "created": moment(task.created_at),
            "changed": moment(task.updated_at),
            "spec": plain(task.spec.model_dump(mode="json", exclude_none=True)),
        }
    )
