"""Bans of providers, set from many threads at once."""

import sys
import threading
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from celeriac.domain.errors import ProviderRateLimitedError
from celeriac.domain.usage import RateDenied
from celeriac.services.budgets.provider_limits import ProviderLimits

_THREADS = 8
_EACH = 150


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> ProviderLimits:
    nothing: Any = SimpleNamespace()
    made = ProviderLimits(nothing, {}, nothing, nothing)
    monkeypatch.setattr(made, "_parks", lambda _: 0)
    return made


def test_no_ban_is_lost_to_another(limits: ProviderLimits) -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    barrier = threading.Barrier(_THREADS)

    def send_away(thread: int) -> None:
        barrier.wait()
        for number in range(_EACH):
            error: Any = ProviderRateLimitedError("slow down")
            error.provider, error.model = "p", f"{thread}-{number}"
            error.retry_after = 60.0
            limits.on_rate_limited(uuid4(), error)

    threads = [threading.Thread(target=send_away, args=(each,)) for each in range(_THREADS)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    free = [
        name
        for thread in range(_THREADS)
        for number in range(_EACH)
        if not isinstance(limits._banned(name := f"p/{thread}-{number}"), RateDenied)
    ]
    assert free == []
