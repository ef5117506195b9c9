"""What people were asked, and what they answered."""

from collections.abc import Iterator, Sequence

from celeriac.domain.approval import Approval, ApprovalStatus
from celeriac.domain.report.text import short, table

_SHORT = 200


def questions(approvals: Sequence[Approval]) -> Iterator[str]:
    """Yield the section, or nothing."""
    if approvals:
        yield "## Approvals"
        rows = [(a.created_at, a.kind, a.title, _answer(a), a.answered_by or "") for a in approvals]
        yield table(("asked", "kind", "question", "answer", "by"), rows)


def _answer(approval: Approval) -> str:
    if approval.status in {ApprovalStatus.OPEN, ApprovalStatus.WITHDRAWN}:
        return approval.status.value
    answer = "approved" if approval.approved else "denied"
    if approval.status is ApprovalStatus.EXPIRED:
        answer = f"nobody, so {answer}"
    if approval.value is not None:
        answer += f": {short(approval.value, _SHORT)}"
    return f"{answer} ({approval.note})" if approval.note else answer
