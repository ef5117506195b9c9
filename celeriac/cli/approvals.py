"""`celeriac approvals`: questions of agents and workflows to people."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from celeriac.cli.core.arguments import Limit, parse_json, parse_pair
from celeriac.cli.core.context import CommandContext, api_command
from celeriac.cli.core.ids import ApprovalId, ExecutionOption, RunOption, short_id
from celeriac.cli.core.output import UsageProblemError, moment, plain, short
from celeriac.domain.approvals import ApprovalStatus, QuestionKind
from celeriac.domain.schemas.forms import FormField, form_fields
from celeriac.kit.json_types import dumps
from celeriac.kit.text import printable

if TYPE_CHECKING:
    from celeriac.wire import Approval


app = typer.Typer(
    name="approvals", help="Questions of agents and workflows to people: list and answer them."
)


@api_command(app, "list")
def list_approvals(
    context: CommandContext,
    *,
    limit: Limit = 20,
    status: Annotated[
        list[ApprovalStatus],
        typer.Option("--status", "-s", help="Only with this status; open if not given."),
    ] = [],  # noqa: B006 - Typer copies it
    every: Annotated[bool, typer.Option("--all", help="With any status.")] = False,
    execution: ExecutionOption = None,
    run: RunOption = None,
) -> None:
    """List questions of agents and workflows, the newest first: by default those that are open.

    Examples:
      celeriac approvals list
      celeriac approvals list --all --execution last
      celeriac approvals list --run last
    """
    wanted = [] if every else status or [ApprovalStatus.OPEN]
    context.output.write_list(
        context.client.approvals.list(
            status=[each.value for each in wanted] or None,
            execution_id=execution,
            workflow_run_id=run,
        ),
        ("ID", "STATUS", "TASK OR STEP", "KIND", "QUESTION", "ASKED", "EXPIRES"),
        lambda each: (
            each.id,
            each.status,
            asker(each),
            each.kind,
            short(each.title),
            each.created_at,
            each.expires_at,
        ),
        limit=limit,
        cut=("TASK OR STEP", "QUESTION"),
        drop=("ASKED", "KIND", "STATUS", "TASK OR STEP", "EXPIRES"),
    )


@api_command(app)
def show(context: CommandContext, approval: ApprovalId) -> None:
    """Show everything about a question."""
    found = context.client.approvals.get(approval)
    context.output.write_details(found, facts(found))


@api_command(app)
def link(context: CommandContext, approval: ApprovalId) -> None:
    """Create a link with which anybody can answer a question, once, without a key.

    It works until the question expires. Send it only to people who may decide.
    """
    made = context.client.approvals.link(approval)
    context.output.write(made, made.url)
    context.output.say(f"It works until {moment(made.expires_at)}.")


@api_command(app)
def revoke_links(context: CommandContext, approval: ApprovalId) -> None:
    """Make all links to a question void, those of notifications included."""
    context.client.approvals.revoke_links(approval)
    context.output.json({"id": approval, "links_revoked": True})
    context.output.say(f"The links to {approval} are void.")


@api_command(app)
def answer(
    context: CommandContext,
    approval: ApprovalId,
    *,
    approve: Annotated[bool | None, typer.Option("--approve/--deny", help="Yes or no.")] = None,
    value: Annotated[
        str | None, typer.Option(help="The answer: text for a free question, else JSON. Approves.")
    ] = None,
    fields: Annotated[
        list[str],
        typer.Option(
            "--set", metavar="NAME=TEXT", help="A field of a form, or NAME:=JSON; may be repeated."
        ),
    ] = [],  # noqa: B006 - Typer copies it
    note: Annotated[
        str, typer.Option(help="A note, which the agent or the steps of the workflow can read.")
    ] = "",
) -> None:
    """Answer a question, so that its execution or workflow run continues.

    On a terminal and without options, shows the question and asks for the
    answer.

    Examples:
      celeriac approvals answer last
      celeriac approvals answer 0b8f6b1d2c11 --approve --note "Fine by me"
      celeriac approvals answer 0b8f6b1d2c11 --deny --note "Not today"
      celeriac approvals answer 0b8f6b1d2c11 --set colour=red --set size:=3
    """
    asked = context.client.approvals.get(approval)
    if approve is None and value is None and not fields:
        if not context.output.can_ask:
            raise UsageProblemError(
                "There is no answer.",
                cure="Give --approve or --deny, and --value or --set for an answer with a value.",
            )
        answered = answer_step_by_step(context, asked, note)
    else:
        given = _value(asked, value, fields)
        answered = context.client.approvals.answer(
            approval, approved=approve is not False, value=given, note=note
        )
    decision = "approved" if answered.approved else "denied"
    context.output.write(answered, f"{decision} · {answered.id}")
    if answered.workflow_run_id is not None:
        following = f"celeriac workflow-runs follow {short_id(answered.workflow_run_id)}"
        context.output.say(f"`{following}` follows the run.")
    elif answered.execution_id is not None:
        following = f"celeriac monitor {short_id(answered.execution_id)}"
        context.output.say(f"`{following}` follows the execution.")


def asker(asked: "Approval") -> str:
    """Return the name of the task, or of the workflow and the step, that asks."""
    return asked.task_name or f"{asked.workflow_name}.{asked.step}"


_ARGUMENTS = {QuestionKind.STEP: "shown"}


def facts(asked: "Approval") -> dict[str, str]:
    """Return a question as names and values; unknown values are empty."""
    return {
        "id": str(asked.id),
        "question": asked.title,
        "status": asked.status.value,
        "kind": asked.kind.value,
        "task": asked.task_name or "",
        "execution": str(asked.execution_id or ""),
        "step": "" if asked.step is None else asker(asked),
        "run": str(asked.workflow_run_id or ""),
        "tool": asked.tool or "",
        _ARGUMENTS.get(asked.kind, "arguments"): plain(asked.arguments) if asked.arguments else "",
        "form": _form(asked),
        "asked": moment(asked.created_at),
        "expires": f"{moment(asked.expires_at)} (then: {asked.on_expiry.value})",
        "approved": "" if asked.approved is None else "yes" if asked.approved else "no",
        "answer": "" if asked.value is None else plain(asked.value),
        "note": asked.note or "",
        "answered": moment(asked.answered_at) if asked.answered_at else "",
        "answered by": asked.answered_by or "",
    }


def _form(asked: "Approval") -> str:
    """Return the fields of a form, one per line, or its schema if it is not made of fields."""
    if asked.answer_schema is None:
        return ""
    fields = form_fields(asked.answer_schema)
    if not fields:
        return plain(asked.answer_schema)
    lines = []
    for field in fields:
        needed = "required" if field.required else "optional"
        parts = [field.allowed, needed, field.hint]
        lines.append(f"{field.name}: {'; '.join(part for part in parts if part)}")
    return "\n".join(lines)


def _value(asked: "Approval", value: str | None, fields: list[str]) -> Any:
    if fields:
        if value is not None:
            raise UsageProblemError("Give either --value or --set, not both.")
        return dict(_field(asked, pair) for pair in fields)
    if value is None or asked.kind is QuestionKind.QUESTION:
        return value
    return parse_json(value, "--value")


def _field(asked: "Approval", pair: str) -> tuple[str, Any]:
    """Return name and value of a form's field; numbers and choices may be plain text."""
    name, value = parse_pair(pair, option="--set", what="field")
    known = {field.name: field for field in form_fields(asked.answer_schema or {})}
    if name in known and isinstance(value, str) and not pair.startswith(f"{name}:="):
        try:
            value = known[name].chosen(value)
        except ValueError as error:
            raise UsageProblemError(f"--set {name}: this is not JSON: {error}.") from error
    return name, value


_DECISIONS = {
    QuestionKind.TOOL: "Approve it?",
    QuestionKind.QUESTION: "Answer it?",
    QuestionKind.FORM: "Answer it?",
    QuestionKind.BUDGET: "Allow more?",
    QuestionKind.STEP: "Approve it?",
}


def answer_step_by_step(context: CommandContext, asked: "Approval", note: str) -> "Approval":
    """Show a question, ask for the answer and send it; ask again while it is invalid.

    Ctrl-C sends nothing. Raises ClientError.
    """
    from celeriac.client import ClientError

    for name, fact in facts(asked).items():
        if fact:
            context.output.say(f"{name + ':':<12} {fact}")
    approved = typer.confirm(_DECISIONS[asked.kind], err=True)
    while True:
        try:
            value = _asked_value(context, asked) if approved else None
            note = note or typer.prompt(_note_to(asked), "", show_default=False, err=True)
            return context.client.approvals.answer(
                asked.id, approved=approved, value=value, note=note
            )
        except UsageProblemError as error:
            context.output.say(error.message)
        except ClientError as error:
            if error.code != "answer_invalid":
                raise
            context.output.say(error.message)


def _note_to(asked: "Approval") -> str:
    return "Note" if asked.kind is QuestionKind.STEP else "Note to the agent"


def _asked_value(context: CommandContext, asked: "Approval") -> Any:
    if asked.kind is QuestionKind.STEP:
        return None
    if asked.kind is QuestionKind.QUESTION:
        return typer.prompt("Answer", err=True)
    if asked.kind is QuestionKind.TOOL:
        if not typer.confirm("Change the arguments?", default=False, err=True):
            return None
        text = typer.prompt("Arguments as JSON", dumps(asked.arguments), err=True)
        return parse_json(text, "Arguments")
    fields = form_fields(asked.answer_schema or {})
    if not fields:
        return parse_json(typer.prompt("Answer as JSON", err=True), "Answer")
    written = {field.name: _ask(context, field) for field in fields}
    value = {
        field.name: field.chosen(written[field.name]) for field in fields if written[field.name]
    }
    return None if not value and asked.kind is QuestionKind.BUDGET else value


def _ask(context: CommandContext, field: FormField) -> str:
    """Return the text that a person enters for a field, empty for an optional one left out."""
    if field.hint:
        context.output.say(field.hint)
    if field.allowed and not field.choices:
        context.output.say(f"  {field.allowed}{'' if field.required else '; optional'}")
    label = printable(field.label)
    if field.choices:
        label += f" ({', '.join(printable(plain(each)) for each in field.choices)})"
    if field.required and not field.default:
        return str(typer.prompt(label, err=True))
    shown = bool(field.default)
    return str(typer.prompt(label, printable(field.default), show_default=shown, err=True))
