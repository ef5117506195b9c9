"""Routes that answer within a bound although PostgreSQL, which knows the keys, does not."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar

from fastapi import Request
from starlette.responses import Response

from celeriac.api.core.auth import Needs, admit
from celeriac.api.core.requests import JsonRoute
from celeriac.domain.errors import DatabaseUnavailableError

_KEY_SECONDS = 1.0
"""How long the check of the key may take."""


class BoundedRoute(JsonRoute, ABC):
    """A route whose request is answered in time, also if no key can be checked."""

    needs: ClassVar[Needs]
    """Who may send the request."""
    answer_seconds: ClassVar[float]
    """How long the whole answer may take."""
    too_late: ClassVar[str]
    """What is said if it takes longer."""

    @staticmethod
    @abstractmethod
    async def instead(request: Request, lacks: str) -> Response:
        """Return the answer without a checked key or in time; `lacks` says what is missing."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler, which answers what `instead` returns if time is up."""
        handle = super().get_route_handler()

        async def handle_within(request: Request) -> Response:
            lacks = "No key can be checked: PostgreSQL does not answer."
            try:
                # afterwards the key is known to this process for some seconds
                async with asyncio.timeout(_KEY_SECONDS):
                    await admit(request, self.needs)
                lacks = self.too_late
                async with asyncio.timeout(self.answer_seconds):
                    return await handle(request)
            except (TimeoutError, DatabaseUnavailableError):
                return await self.instead(request, lacks)

        return handle_within
