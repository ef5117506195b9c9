"""The page behind a signed link: a question with a form, safe against whatever an agent wrote.

No scripts, nothing loaded, everything escaped, and a policy that would stop it otherwise.
"""

import hashlib
import json
from base64 import b64encode
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup
from starlette.responses import HTMLResponse

from celeriac.api.approval_form import inputs_of
from celeriac.domain.approval import Approval, ApprovalStatus, QuestionKind

_PAGES = Path(__file__).parent / "pages"
_HEADING = "An agent asks"
_BUTTONS = {
    QuestionKind.TOOL: ("Approve", "Refuse"),
    QuestionKind.QUESTION: ("Answer", "Don't answer"),
    QuestionKind.FORM: ("Answer", "Don't answer"),
    QuestionKind.BUDGET: ("Allow more", "Refuse"),
}


def question_page(
    approval: Approval, *, fault: str = "", given: Mapping[str, str] | None = None
) -> HTMLResponse:
    """Return the page of an open question; with a `fault`, what was wrong with the answer."""
    given = given or {}
    yes, no = _BUTTONS[approval.kind]
    return _page(
        status=422 if fault else 200,
        heading=_HEADING,
        message=fault,
        faulty=True,
        approval=approval,
        title=approval.title,
        until=f"{approval.expires_at:%Y-%m-%d %H:%M} UTC",
        arguments=_readable(approval),
        fields=inputs_of(approval, given),
        note=given.get("note", ""),
        yes=yes,
        no=no,
    )


def closed_page(approval: Approval, *, now: bool = False, status: int = 200) -> HTMLResponse:
    """Return the page of a question that is no longer open; `now` where this answered it."""
    return _message_page(
        "Thank you" if now else _HEADING, _said(approval), status=status, title=approval.title
    )


def message_page(message: str, *, status: int) -> HTMLResponse:
    """Return a page that says why there is no question."""
    return _message_page(_HEADING, message, status=status, faulty=True)


def _message_page(
    heading: str, message: str, *, status: int, faulty: bool = False, title: str = ""
) -> HTMLResponse:
    return _page(
        status=status,
        heading=heading,
        message=message,
        faulty=faulty,
        approval=None,
        title=title,
        fields=None,
    )


def _said(approval: Approval) -> str:
    match approval.status:
        case ApprovalStatus.ANSWERED:
            said = "approved" if approval.approved else "refused"
            return f"The question was {said} at {approval.answered_at:%Y-%m-%d %H:%M} UTC."
        case ApprovalStatus.WITHDRAWN:
            return "The question is not needed any more: its execution has ended."
    return "The question has expired; nobody answered it in time."


def _readable(approval: Approval) -> str:
    if not approval.arguments:
        return ""
    return json.dumps(approval.arguments, indent=2, ensure_ascii=False)


def _page(*, status: int, **values: object) -> HTMLResponse:
    template, style = _template()
    # the stylesheet is ours; its digest lets it, and nothing else, through the policy
    content = template.render(style=Markup(style), **values)  # noqa: S704
    digest = b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    )
    headers = {
        "Content-Security-Policy": policy,
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "X-Robots-Tag": "noindex",
    }
    return HTMLResponse(content, status_code=status, headers=headers)


@cache
def _template() -> tuple[Template, str]:
    environment = Environment(
        loader=FileSystemLoader(_PAGES), autoescape=True, undefined=StrictUndefined
    )
    style = (_PAGES / "approval.css").read_text()
    return environment.get_template("approval.html"), style
