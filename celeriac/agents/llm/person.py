"""The tool with which a model asks a person."""

from typing import Any

from pydantic_ai import CallDeferred, ToolFailed
from pydantic_ai.toolsets import FunctionToolset

from celeriac.agents.mcp.results import clean
from celeriac.domain.errors import SchemaInvalidError
from celeriac.domain.schema import check_schema
from celeriac.kit.threads import CHECKS

MAX_QUESTION = 4_000
"""Characters of a question."""


def person_tools(*, retries: int) -> FunctionToolset[None]:
    """Return the tool `ask_person`; a model may call it with wrong arguments `retries` times."""
    return FunctionToolset([ask_person], id="person", max_retries=retries)


async def ask_person(question: str, form: dict[str, Any] | None = None) -> str:
    """Ask a person a question and get the answer. It may take long: ask only what you must know.

    Args:
        question: What to ask; it must be understood without this conversation.
        form: JSON schema of the answer, where it must be more than a text.
    """
    if not question.strip() or len(question) > MAX_QUESTION:
        raise ToolFailed(f"The question must have between 1 and {MAX_QUESTION} characters.")
    if form is not None:
        try:
            await CHECKS.run(check_schema, clean(form), field="form")
        except SchemaInvalidError as error:
            raise ToolFailed(error.message) from error
    raise CallDeferred(kind="question")
