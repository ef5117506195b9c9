"""A python runner and its context, the user of confined processes, and checkouts."""

import os
from pathlib import Path

import pytest

from celeriac.agents.child.confinement import Confinement
from celeriac.agents.command.runner import CommandRunner
from celeriac.kit.users import ChildUser
from tests.support.confined import confined
from tests.support.repositories import Desk, Origin
from tests.support.run_context import FUNCTIONS, RecordingContext
from tests.support.runners import PythonRunner
from tests.support.sandboxes import confined_user

ENVIRONMENT = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}


@pytest.fixture
def runner() -> PythonRunner:
    environment = {
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "LC_TIME": "C.UTF-8",
        "SHOP_URL": "http://127.0.0.1/",
        "CELERIAC_SECRET_KEY": "not for children",
    }
    return PythonRunner(modules=(FUNCTIONS,), confinement=confined(environment, "SHOP_URL"))


@pytest.fixture
def context(tmp_path: Path) -> RecordingContext:
    return RecordingContext(tmp_path)


@pytest.fixture
def user() -> ChildUser:
    return confined_user()


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    return Origin(tmp_path / "origin")


@pytest.fixture
def bounds() -> Confinement:
    return confined(ENVIRONMENT)


@pytest.fixture
def desk(tmp_path: Path, origin: Origin, bounds: Confinement) -> Desk:
    return Desk(tmp_path / "home", origin, bounds)


@pytest.fixture
def shell(bounds: Confinement) -> CommandRunner:
    return CommandRunner(commands={"shell": ["sh", "-c"]}, confinement=bounds)
