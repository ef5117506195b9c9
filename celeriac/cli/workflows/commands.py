"""`celeriac workflows`: documents, workflows and their versions, and starting a run."""

from typing import TYPE_CHECKING, Annotated

import typer

from celeriac.cli.core.arguments import Description, Json, Limit, gather
from celeriac.cli.core.context import CommandContext, api_command
from celeriac.cli.core.ids import WorkflowName
from celeriac.cli.core.output import ExitCode, Output, plain, short
from celeriac.cli.workflows.following import follow_run, show_run_outcome
from celeriac.kit.ids import parse_uuid

if TYPE_CHECKING:
    from celeriac.wire import Workflow

app = typer.Typer(
    name="workflows", help="Graphs of steps that run tasks: check, create and start them."
)

Files = Annotated[
    list[str],
    typer.Argument(
        metavar="FILE...",
        help="YAML or JSON; - for stdin; or MODULE:NAME of a workflow that is built in Python.",
    ),
]

Spec = Annotated[
    str,
    typer.Option(
        "--spec",
        metavar="FILE",
        help="The document: YAML or JSON; - for stdin; or MODULE:NAME. It may leave out the name.",
    ),
]


@api_command(app, "list")
def list_workflows(context: CommandContext, limit: Limit = 50) -> None:
    """List the workflows of the workspace, the newest first."""
    context.output.write_list(
        context.client.workflows.list(),
        ("NAME", "STEPS", "VERSION", "CHANGED", "DESCRIPTION"),
        lambda each: (
            each.name,
            len(each.spec.steps),
            each.version,
            each.updated_at,
            short(each.description),
        ),
        limit=limit,
        cut=("DESCRIPTION",),
        drop=("DESCRIPTION", "CHANGED"),
    )


@api_command(app)
def show(context: CommandContext, workflow: WorkflowName) -> None:
    """Show a workflow with its whole specification."""
    _show(context, context.client.workflows.get(workflow))


@api_command(app)
def versions(context: CommandContext, workflow: WorkflowName, limit: Limit = 20) -> None:
    """List the versions of a workflow, the newest first."""
    context.output.write_list(
        context.client.workflows.versions(workflow),
        ("VERSION", "STEPS", "CREATED"),
        lambda each: (each.version, len(each.spec.steps), each.created_at),
        limit=limit,
    )


@api_command(app)
def create(
    context: CommandContext,
    *,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Unique among your workflows.")],
    spec: Spec,
    description: Description = None,
) -> None:
    """Create a workflow.

    The document is checked as by `celeriac workflows validate` before it is sent.

    Examples:
      celeriac workflows create brief --spec brief.yaml
      celeriac workflows create brief --spec shop.flows:brief
    """
    from celeriac.cli.workflows import reading

    given, described = reading.specification(spec, name)
    text = described if description is None else description
    _show(context, context.client.workflows.create(name, given, description=text or ""))


@api_command(app)
def update(
    context: CommandContext,
    *,
    workflow: WorkflowName,
    spec: Annotated[
        str | None,
        typer.Option(
            "--spec", metavar="FILE", help="The new document, as for create: the next version."
        ),
    ] = None,
    description: Description = None,
) -> None:
    """Change a workflow. What is not given stays as it is.

    Runs that are started from now on follow the new version. Others keep theirs.

    Examples:
      celeriac workflows update brief --spec brief.yaml
    """
    from celeriac.cli.workflows import reading

    given = None
    if spec is not None:
        name = None if parse_uuid(workflow) else workflow
        given, described = reading.specification(spec, name)
        description = described if description is None else description
    _show(context, context.client.workflows.change(workflow, spec=given, description=description))


@api_command(app)
def delete(context: CommandContext, workflow: WorkflowName) -> None:
    """Delete a workflow. Its runs stay, and its name is free.

    Refused while runs of it have not ended.

    Examples:
      celeriac workflows delete brief
    """
    context.client.workflows.delete(workflow)
    context.output.write({"workflow": workflow, "deleted": True}, f"deleted · workflow {workflow}")


@api_command(app)
def run(
    context: CommandContext,
    *,
    workflow: WorkflowName,
    var: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=TEXT", help="A field of the input; NAME:=JSON for other values."
        ),
    ] = None,
    input_file: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="[NAME=]FILE",
            help="A file with the input, a JSON object; NAME=FILE for the text of one field; - for "
            "stdin.",
        ),
    ] = None,
    priority: Annotated[
        str | None,
        typer.Option(help="low, normal, high or critical; that of the workflow if not given."),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            "--idempotency-key",
            help="Your own name for this run; the same name again starts nothing new.",
        ),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Print the run's id, and don't wait for its end.")
    ] = False,
    timeout: Annotated[
        float | None, typer.Option(min=0, help="Stop waiting after this many seconds.")
    ] = None,
) -> None:
    """Start a run of a workflow, follow it to its end, and print its result.

    A terminal shows the steps as a tree. Ctrl-C stops following, not the run.
    Exits with 1 if the run fails or is cancelled.

    Examples:
      celeriac workflows run brief --var url=https://example.org
      celeriac workflows run sweep --input leads.json --detach
    """
    given = gather(var or [], [], input_file or [])
    accepted = context.client.workflows.start(
        workflow, given, priority=priority, idempotency_key=key
    )
    if detach:
        context.output.write(accepted, str(accepted.run_id))
        return
    ended = follow_run(context, accepted.run_id, timeout=timeout)
    show_run_outcome(context, ended)


@app.command()
def validate(files: Files, as_json: Json = False) -> None:
    """Check documents of workflows; print their graphs, or all faults.

    Each fault has its place in the file, its step, and a cure. Exits with 2 if
    there are any. Needs no server, so the tasks of the steps are not looked up.

    In a file for `celeriac apply`, the entries of its `workflows` are checked.
    MODULE:NAME imports the module on this machine. Python files are not run.

    Examples:
      celeriac workflows validate brief.yaml
      celeriac workflows validate project.yaml review.json --json
      celeriac workflows validate shop.flows:brief
    """
    from celeriac.cli.workflows import reading

    output = Output(as_json=as_json)
    found = [each for file in files for each in reading.documents(file)]
    faults = [fault for each in found for fault in each.faults]
    value = {
        "ok": not faults,
        "faults": faults,
        "workflows": [reading.described(each.workflow) for each in found if each.workflow],
    }
    if faults and not as_json:
        raise reading.faulty(faults)
    shown = [reading.drawn(each.workflow) for each in found if each.workflow]
    output.write(value, "\n\n".join(shown))
    if faults:
        raise typer.Exit(ExitCode.USAGE)


@app.command()
def schema() -> None:
    """Print the JSON schema of a document, for editors.

    Editors with a YAML language server take it from a first line such as
    `# yaml-language-server: $schema=workflow.schema.json`.

    Examples:
      celeriac workflows schema > workflow.schema.json
    """
    import json

    from celeriac.domain.workflows.json_schema import document_schema

    Output(as_json=False).raw(json.dumps(document_schema(), indent=2, ensure_ascii=False))


def _show(context: CommandContext, found: "Workflow") -> None:
    context.output.write_details(
        found,
        {
            "name": found.name,
            "id": found.id,
            "version": found.version,
            "description": found.description,
            "created": found.created_at,
            "changed": found.updated_at,
            "spec": plain(found.spec.model_dump(mode="json", exclude_defaults=True)),
        },
    )
