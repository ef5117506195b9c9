"""What every test gets: markers by directory, the record of proven requirements."""

import signal
from pathlib import Path

import pytest
from hypothesis import settings

from celeriac.logs import use_standard_logging

pytest_plugins = [
    "tests.support.requirements",
    "tests.support.fixtures",
    "tests.support.fleet_reports",
]

# Hypothesis limits each example to 200 ms by default, which a busy machine exceeds.
settings.register_profile("celeriac", deadline=None)
settings.load_profile("celeriac")

_TESTS = Path(__file__).parent
_MARKED = frozenset({"integration", "e2e", "chaos", "contract"})


_STOPPING = (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def pytest_configure() -> None:
    """Log as in a user's tests; hear the signals that shells have their background jobs ignore."""
    use_standard_logging()
    for number in _STOPPING:
        if signal.getsignal(number) is signal.SIG_IGN:
            handler = signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL
            signal.signal(number, handler)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark each test with the kind that its directory names."""
    kind = item.path.relative_to(_TESTS).parts[0]
    if kind in _MARKED:
        item.add_marker(kind)


@pytest.fixture
def anyio_backend() -> str:
    """Coroutine tests (`@pytest.mark.anyio`) run on asyncio, as the product does."""
    return "asyncio"
