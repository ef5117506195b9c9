"""Notices models that fall silent."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from celeriac.agents.gateway.calls import SilenceWatch
from celeriac.agents.models import ModelRef
from celeriac.domain.errors import ProviderError
from celeriac.domain.tasks import Limits
from celeriac.kit.words import counted

_SHARE_OF_SOFT_LIMIT = 0.8


@dataclass(frozen=True, slots=True)
class SilenceLimits:
    """How long a model may say nothing, in seconds."""

    first: float = 300.0
    """Before an answer begins: queues of busy servers, and thinking that isn't shown."""
    between: float = 60.0
    """Within an answer."""

    def within(self, limits: Limits) -> "SilenceLimits":
        """Return one that ends before the soft limit, so that silence is told from slowness."""
        longest = limits.soft_seconds * _SHARE_OF_SOFT_LIMIT
        return SilenceLimits(min(self.first, longest), min(self.between, longest))


class Watchdog(SilenceWatch):
    """Ends a run whose model says nothing for too long; watches only while an answer is due."""

    def __init__(self, patience: SilenceLimits, choice: ModelRef) -> None:
        """Watch a run of `choice`."""
        self._patience = patience
        self._choice = choice
        self._timeout: asyncio.Timeout | None = None
        self._seconds = patience.first

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Cancel what the block does when the model is silent, and raise ProviderError."""
        try:
            async with asyncio.timeout(None) as self._timeout:
                yield
        except TimeoutError as error:
            if self._timeout is None or not self._timeout.expired():
                raise
            raise ProviderError(
                f"{self._choice} said nothing for {counted(self._seconds, 'second')}."
            ) from error

    def asked(self) -> None:
        """The model was asked: its answer should begin."""
        self._expect(self._patience.first)

    def heard(self) -> None:
        """A piece of the answer came: so should the next."""
        self._expect(self._patience.between)

    def rest(self) -> None:
        """Nothing is due from the model."""
        self._reschedule(None)

    def _expect(self, seconds: float) -> None:
        if self._reschedule(asyncio.get_running_loop().time() + seconds):
            self._seconds = seconds

    def _reschedule(self, when: float | None) -> bool:
        """Set the end; False where it has come already, or nothing is watched."""
        if self._timeout is None or self._timeout.expired():
            return False
        self._timeout.reschedule(when)
        return True
