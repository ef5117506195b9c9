"""Shows what the processes of a fleet wrote where a test failed; a plugin of pytest."""

from collections.abc import Generator

import pytest

from tests.support.fleet import Fleet

FLEET = pytest.StashKey[Fleet]()
"""In the stash of a test: its fleet."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add what the fleet's processes wrote."""
    report = yield
    fleet = item.stash.get(FLEET, None)
    if call.when == "call" and call.excinfo is not None and fleet is not None:
        report.sections.extend((f"output of {name}", text) for name, text in fleet.report())
    return report
