"""Requests that answer questions."""

from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, StringConstraints

from celeriac.domain.agent import Strict
from celeriac.domain.answering import MAX_NOTE
from celeriac.domain.approval import Answer


class AnswerRequest(Strict):
    """A person's answer."""

    BULK: ClassVar[bool] = True

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"approved": True, "note": "Fine by me."}]}
    )

    approved: bool
    value: Any = Field(
        default=None,
        description="The text of a free question, or the value of a form; for a tool, other "
        "arguments than asked for.",
    )
    note: Annotated[str, StringConstraints(max_length=MAX_NOTE)] = Field(
        default="", description="What the agent is told beside it."
    )

    def answer(self) -> Answer:
        """Return what was answered."""
        return Answer(approved=self.approved, value=self.value, note=self.note)
