"""Options of one execution, and how they are stored."""

from uuid import UUID

from pydantic import Field, ValidationError

from celeriac.domain.base import Strict
from celeriac.domain.budgets import Budget
from celeriac.domain.errors import SpecificationUnreadableError
from celeriac.domain.repositories import RepositoryChoice
from celeriac.domain.tasks import RetryPolicy, TaskSpec
from celeriac.kit.json_types import JsonObject
from celeriac.kit.validation import first_fault


class TreeBudget(Strict):
    """The budget of an execution that its descendants share."""

    execution_id: UUID = Field(strict=False)
    budget: Budget


class RunOptions(Strict):
    """Options of one execution."""

    fork_session: bool = False
    """Continue a copy of the session instead of the session itself."""
    budget: Budget | None = None
    """Budget of this execution, instead of its task's."""
    record: bool = False
    """Record the model traffic as a cassette."""
    cassette_id: UUID | None = Field(default=None, strict=False)
    """Answer model requests from this cassette instead of from providers."""
    soft_seconds: float | None = Field(default=None, gt=0)
    """The soft limit of each attempt, instead of its task's; a step of a workflow has its own."""
    hard_seconds: float | None = Field(default=None, gt=0)
    retry: RetryPolicy | None = None
    """The retry policy, instead of its task's."""
    repository: RepositoryChoice | None = None
    """What is chosen instead of its task's repository, as far as the task leaves it open."""
    callback_url: str | None = None
    """URL to which its end is sent, besides the endpoints of its workspace."""
    replaced: int = Field(default=0, ge=0)
    """How many earlier submissions it has replaced by debounce; callers can't set it."""
    tree: TreeBudget | None = None
    """The budget that a child shares with its parent; callers can't set it."""

    @property
    def uses_cassette(self) -> bool:
        """Whether the model traffic is recorded, or answered from a cassette."""
        return self.record or self.cassette_id is not None

    def choosing(self, choice: RepositoryChoice | None) -> "RunOptions":
        """Return these options with what `choice` names instead of what they choose."""
        if choice is None:
            return self
        before = self.repository or RepositoryChoice()
        chosen = before.model_copy(update=choice.model_dump(exclude_none=True))
        return self.model_copy(update={"repository": chosen})

    def applied(self, task: TaskSpec) -> TaskSpec:
        """Return the task with this execution's limits, retry policy and repository."""
        changes: dict[str, object] = {}
        if self.hard_seconds is not None:
            soft = self.hard_seconds if self.soft_seconds is None else self.soft_seconds
            limits = {"soft_seconds": soft, "hard_seconds": self.hard_seconds}
            changes["limits"] = task.limits.model_copy(update=limits)
        if self.retry is not None:
            changes["retry"] = self.retry
        if self.repository is not None and task.repository is not None:
            changes["repository"] = task.repository.chosen(self.repository)
        return task.model_copy(update=changes) if changes else task


NO_OPTIONS = RunOptions()


def run_options(stored: JsonObject | None) -> RunOptions:
    """Read an execution's stored options; None stands for the defaults.

    Raises SpecificationUnreadableError for options that a newer release has stored.
    """
    if stored is None:
        return NO_OPTIONS
    try:
        return RunOptions.model_validate(stored)
    except ValidationError as error:
        raise unreadable("options of the execution", error) from error


def unreadable(what: str, error: ValidationError) -> SpecificationUnreadableError:
    """Return the error of a stored value that can't be read; `what` names it."""
    place, fault = first_fault(error)
    return SpecificationUnreadableError(
        f"This release of Celeriac can't read the stored {what} ({place}: {fault}): a newer "
        "one has written them. Upgrade this program.",
        place=place,
    )


def stored_options(options: RunOptions) -> str | None:
    """Return options as they are stored: JSON text, or None for the defaults."""
    return None if options == NO_OPTIONS else options.model_dump_json(exclude_defaults=True)
