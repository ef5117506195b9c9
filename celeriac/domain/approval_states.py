"""What questions can be, and how they can stand. Standard library only: commands start with it."""

from enum import StrEnum


class QuestionKind(StrEnum):
    """What an agent asks for."""

    TOOL = "tool"
    """May this tool be called with these arguments?"""
    QUESTION = "question"
    """A free question; the answer is a text."""
    FORM = "form"
    """A question whose answer fits a JSON schema."""
    BUDGET = "budget"
    """A budget is spent; may the execution go on?"""


class ApprovalStatus(StrEnum):
    """Where a question stands."""

    OPEN = "open"
    ANSWERED = "answered"
    EXPIRED = "expired"
    """Nobody answered in time; the answer is the one that its `on_expiry` says."""
    WITHDRAWN = "withdrawn"
    """The execution ended before an answer came."""
