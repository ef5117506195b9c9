"""What came of a document of agents, tasks and budgets."""

from typing import Any, Literal
from uuid import UUID

from pydantic import Field

from celeriac.domain.document import Action
from celeriac.wire import examples
from celeriac.wire.base import Wire, example


class FieldChange(Wire):
    """A field that differs."""

    field: str = Field(description="Its path within the resource, as in `spec.limits.memory_mb`.")
    before: Any = Field(description="What is stored; null where the field is not set.")
    after: Any = Field(description="What the document says; null where it says nothing.")


class AppliedResource(Wire):
    """What was done with one resource of the document."""

    kind: Literal["agent", "task", "budget"]
    name: str
    action: Action
    id: UUID | None = Field(description="Null where it would only be created.")
    version: int | None = Field(description="The version that is current now; budgets have none.")
    changes: list[FieldChange]
    warnings: list[str] = Field(
        default=[],
        description="What looks wrong with an agent, as the API's machine is set up.",
    )


class Applied(Wire):
    """What was done, or in a dry run would be done, in the order of the document."""

    model_config = example(examples.APPLIED)

    dry_run: bool
    created: int
    changed: int
    unchanged: int
    items: list[AppliedResource]
