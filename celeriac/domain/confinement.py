"""How an agent asks to be confined. A worker may confine it more, never less."""

from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

from celeriac.domain.base import Strict
from celeriac.kit.destinations import checked

FIELD = "confinement"


class Driver(StrEnum):
    """What makes the sandbox of an agent, from the least strict to the strictest."""

    BUBBLEWRAP = "bubblewrap"
    CONTAINER = "container"

    def is_met_by(self, name: str) -> bool:
        """Whether the driver `name` is at least as strict."""
        order = [each.value for each in Driver]
        return order.index(name) >= order.index(self)


DestinationPattern = Annotated[
    str, StringConstraints(min_length=1, max_length=300), AfterValidator(checked)
]
"""`host`, `*.host`, `*`, each with `:port` or for the ports 80 and 443."""


class AgentConfinement(Strict):
    """What an agent's processes must not exceed."""

    driver: Driver | None = Field(default=None, strict=False)
    """A worker that has neither this driver nor a stricter one does not run the agent. None: that
    of the worker, unless the agent names a `network`."""
    network: (
        Annotated[tuple[DestinationPattern, ...], Field(strict=False, max_length=200)] | None
    ) = Field(default=None, examples=[["api.github.com", "*.pypi.org:443"]])
    """Destinations that its processes reach, through a proxy; empty: none. None: the default of the
    worker."""

    @property
    def demanded(self) -> bool:
        """Whether the agent must not run unconfined."""
        return self.driver is not None or self.network is not None


UNASKED = AgentConfinement()
