"""Work that a cancellation must not cut short."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def despite_cancellation(work: Coroutine[Any, Any, T]) -> T:
    """Do all of `work`, and only then let a cancellation through that came meanwhile."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.cancelled():
                raise
            cancelled = error
        except BaseException:  # noqa: BLE001 - told by `result` below
            break
    result = task.result()
    if cancelled is not None:
        raise cancelled
    return result
