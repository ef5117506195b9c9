"""The commands of `celeriac workflows`."""

from typing import Annotated

import typer

from celeriac.cli.core.arguments import Json
from celeriac.cli.core.output import CommandError, ExitCode, Output

app = typer.Typer(name="workflows", help="Workflows: graphs of steps.")

Files = Annotated[
    list[str],
    typer.Argument(
        metavar="FILE...",
        help="YAML or JSON; - for stdin; or MODULE:NAME of a workflow that is built in Python.",
    ),
]


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
        lines = "\n".join(f"  {fault.shown}" for fault in faults)
        raise CommandError(
            f"There are faults.\n{lines}", exit_code=ExitCode.USAGE, problem="workflow_invalid"
        )
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
