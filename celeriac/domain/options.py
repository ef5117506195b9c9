"""Options of one run, beside its task's own: stored with the execution."""

from uuid import UUID

from pydantic import Field, ValidationError

from celeriac.domain.agent.base import Strict
from celeriac.domain.budget import Budget
from celeriac.domain.errors import SpecificationUnreadableError
from celeriac.kit.jsontypes import JsonObject


class RunOptions(Strict):
    """What a caller wishes for one execution; the defaults wish for nothing."""

    fork_session: bool = False
    """Goes on with a copy of the session, which stays as it is."""
    budget: Budget | None = None
    """For this execution, instead of its task's."""
    record: bool = False
    """Saves the model traffic as a cassette."""
    cassette_id: UUID | None = Field(default=None, strict=False)
    """Answers model requests from this cassette instead of from providers."""

    @property
    def wishes_tape(self) -> bool:
        """Whether the model traffic is to be recorded or answered from a cassette."""
        return self.record or self.cassette_id is not None


NO_OPTIONS = RunOptions()


def run_options(stored: JsonObject | None) -> RunOptions:
    """Read an execution's stored options; None stands for no wishes.

    Raises SpecificationUnreadableError for those that a newer release has stored.
    """
    if stored is None:
        return NO_OPTIONS
    try:
        return RunOptions.model_validate(stored)
    except ValidationError as error:
        raise unreadable("options of the execution", error) from error


def unreadable(what: str, error: ValidationError) -> SpecificationUnreadableError:
    """Return why stored specifications can't be read; `what` names them."""
    fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in fault["loc"])
    return SpecificationUnreadableError(
        f"This release of Celeriac can't read the stored {what} ({place}: {fault['msg']}): a newer "
        "one has written them. Upgrade this program.",
        place=place,
    )


def stored_options(options: RunOptions) -> str | None:
    """Return options as they are stored: as JSON text, or None for no wishes."""
    return None if options == NO_OPTIONS else options.model_dump_json(exclude_defaults=True)
