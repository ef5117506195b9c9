"""`celeriac approvals`: lists, details, answers."""

import sys
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from celeriac.cli.core.arguments import Limit, parse_json, parse_pair
from celeriac.cli.core.context import CommandContext, open_client
from celeriac.cli.core.output import UsageProblemError, moment, plain, printable, short
from celeriac.cli.ids import ApprovalId, ExecutionOption, short_id
from celeriac.domain.approvals import ApprovalStatus, QuestionKind
from celeriac.domain.schemas.forms import FormField, form_fields
from celeriac.kit.json_types import dumps

if TYPE_CHECKING:
    from celeriac.wire import Approval


_SHORT = 60


def build_app() -> typer.Typer:
    """Return the group `approvals`."""
    app = typer.Typer(name="approvals", help="Questions of agents to people: read and answer them.")
    app.command("list")(list_approvals)
    for command in (show, link, answer):
        app.command()(command)
    app.command("revoke-links")(revoke_links)
    return app


@open_client
def list_approvals(
    session: CommandContext,
    *,
    limit: Limit = 20,
    status: Annotated[
        list[ApprovalStatus],
        typer.Option("--status", "-s", help="Only those that stand so; open ones if not given."),
    ] = [],  # noqa: B006 - Typer copies it
    every: Annotated[bool, typer.Option("--all", help="However they stand.")] = False,
    execution: ExecutionOption = None,
) -> None:
    """List what agents ask, the newest first: what waits for an answer.

    Examples:
      celeriac approvals list
      celeriac approvals list --all --execution last
    """
    wanted = [] if every else status or [ApprovalStatus.OPEN]
    pages = session.client.approvals.list(
        status=[each.value for each in wanted] or None, execution_id=execution
    )
    found = list(islice(pages, limit))
    if session.output.as_json:
        session.output.json(found)
        return
    session.output.table(
        ("ID", "STATUS", "TASK", "KIND", "QUESTION", "ASKED", "EXPIRES"),
        (
            (
                str(each.id),
                each.status.value,
                each.task_name,
                each.kind.value,
                short(each.title, _SHORT),
                moment(each.created_at),
                moment(each.expires_at),
            )
            for each in found
        ),
        cut=("TASK", "QUESTION"),
        drop=("ASKED", "KIND", "STATUS", "TASK", "EXPIRES"),
    )


@open_client
def show(session: CommandContext, approval: ApprovalId) -> None:
    """Show everything about a question."""
    found = session.client.approvals.get(approval)
    if session.output.as_json:
        session.output.json(found)
    else:
        session.output.fields(facts(found))


@open_client
def link(session: CommandContext, approval: ApprovalId) -> None:
    """Make a link with which anybody can answer a question, once, without a key.

    It works until the question expires. Send it only where those may read who may decide.
    """
    made = session.client.approvals.link(approval)
    if session.output.as_json:
        session.output.json(made)
    else:
        session.output.raw(made.url)
        session.output.say(f"It works until {moment(made.expires_at)}.")


@open_client
def revoke_links(session: CommandContext, approval: ApprovalId) -> None:
    """Make all links to a question void, those of notices included."""
    session.client.approvals.revoke_links(approval)
    if session.output.as_json:
        session.output.json({"id": approval, "links_revoked": True})
    else:
        session.output.say(f"The links to {approval} work no more.")


@open_client
def answer(
    session: CommandContext,
    approval: ApprovalId,
    *,
    approve: Annotated[
        bool | None, typer.Option("--approve/--refuse", help="Yes or no; asked for if not given.")
    ] = None,
    value: Annotated[
        str | None,
        typer.Option(help="The answer: a text to a free question, else JSON; approves."),
    ] = None,
    fields: Annotated[
        list[str],
        typer.Option(
            "--set", metavar="NAME=TEXT", help="A field of a form, or NAME:=JSON; may be repeated."
        ),
    ] = [],  # noqa: B006 - Typer copies it
    note: Annotated[str, typer.Option(help="What the agent is told beside it.")] = "",
) -> None:
    """Answer a question; its execution goes on.

    On a terminal, without options, it is shown and answered step by step.

    Examples:
      celeriac approvals answer last
      celeriac approvals answer 0b8f6b1d2c11 --approve --note "Fine by me"
      celeriac approvals answer 0b8f6b1d2c11 --set colour=red --set size:=3
    """
    asked = session.client.approvals.get(approval)
    if approve is None and value is None and not fields:
        _check_terminal(session)

        answered = answer_step_by_step(session, asked, note)
    else:
        approved = approve is not False
        answered = session.client.approvals.answer(
            approval, approved=approved, value=_value(asked, value, fields), note=note
        )
    if session.output.as_json:
        session.output.json(answered)
    else:
        said = "approved" if answered.approved else "refused"
        session.output.raw(f"{said} · {answered.id}")
        following = f"celeriac monitor {short_id(answered.execution_id)}"
        session.output.say(f"`{following}` follows what it does now.")


def facts(asked: "Approval") -> dict[str, str]:
    """Return a question as names and values, without those that are empty."""
    values = {
        "id": str(asked.id),
        "question": asked.title,
        "status": asked.status.value,
        "kind": asked.kind.value,
        "task": asked.task_name,
        "execution": str(asked.execution_id),
        "tool": asked.tool or "",
        "arguments": plain(asked.arguments) if asked.arguments else "",
        "form": _form(asked),
        "asked": moment(asked.created_at),
        "expires": f"{moment(asked.expires_at)} (then: {asked.on_expiry.value})",
        "approved": "" if asked.approved is None else "yes" if asked.approved else "no",
        "answer": "" if asked.value is None else plain(asked.value),
        "note": asked.note or "",
        "answered": moment(asked.answered_at) if asked.answered_at else "",
        "answered by": asked.answered_by or "",
    }
    return {name: value for name, value in values.items() if value}


def _form(asked: "Approval") -> str:
    """Return the fields of a form, one a line; the schema where single fields can't fill it."""
    from celeriac.domain.schemas.forms import form_fields

    if asked.answer_schema is None:
        return ""
    fields = form_fields(asked.answer_schema)
    if not fields:
        return plain(asked.answer_schema)
    lines = []
    for field in fields:
        needed = "needed" if field.required else "may be left out"
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
    """Return name and value of a form's field; numbers and choices needn't be written as JSON."""
    from celeriac.domain.schemas.forms import form_fields

    name, value = parse_pair(pair, option="--set", what="field")
    known = {field.name: field for field in form_fields(asked.answer_schema or {})}
    if name in known and isinstance(value, str) and not pair.startswith(f"{name}:="):
        try:
            value = known[name].chosen(value)
        except ValueError as error:
            raise UsageProblemError(f"--set {name}: this is no JSON: {error}.") from error
    return name, value


def _check_terminal(session: CommandContext) -> None:
    if session.output.as_json or not (sys.stdin.isatty() and session.output.err.is_terminal):
        raise UsageProblemError(
            "Say how to answer.",
            cure="Give --approve or --refuse, and --value or --set where a value is needed.",
        )


_DECISIONS = {
    QuestionKind.TOOL: "Approve it?",
    QuestionKind.QUESTION: "Answer it?",
    QuestionKind.FORM: "Answer it?",
    QuestionKind.BUDGET: "Allow more?",
}


def answer_step_by_step(session: CommandContext, asked: "Approval", note: str) -> "Approval":
    """Show a question, ask the person, and send the answer; again where it doesn't fit.

    Raises ClientError; Ctrl-C sends nothing.
    """
    from celeriac.client import ClientError

    for name, fact in facts(asked).items():
        session.output.say(f"{name + ':':<12} {fact}")
    approved = typer.confirm(_DECISIONS[asked.kind], err=True)
    while True:
        try:
            value = _asked_value(session, asked) if approved else None
            note = note or typer.prompt("Note to the agent", "", show_default=False, err=True)
            return session.client.approvals.answer(
                asked.id, approved=approved, value=value, note=note
            )
        except UsageProblemError as error:
            session.output.say(error.message)
        except ClientError as error:
            if error.code != "answer_invalid":
                raise
            session.output.say(error.message)


def _asked_value(session: CommandContext, asked: "Approval") -> Any:
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
    written = {field.name: _ask(session, field) for field in fields}
    value = {
        field.name: field.chosen(written[field.name]) for field in fields if written[field.name]
    }
    return None if not value and asked.kind is QuestionKind.BUDGET else value


def _ask(session: CommandContext, field: FormField) -> str:
    """Return what a person wrote for a field; empty where they left out what may be left out."""
    if field.hint:
        session.output.say(field.hint)
    if field.allowed and not field.choices:
        session.output.say(f"  {field.allowed}{'' if field.required else '; may be left out'}")
    label = printable(field.label)
    if field.choices:
        label += f" ({', '.join(printable(plain(each)) for each in field.choices)})"
    if field.required and not field.default:
        return str(typer.prompt(label, err=True))
    shown = bool(field.default)
    return str(typer.prompt(label, printable(field.default), show_default=shown, err=True))
