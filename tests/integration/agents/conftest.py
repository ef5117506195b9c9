"""A python runner, a context to run it in, and the user of confined processes."""

import os
from pathlib import Path

import pytest

from celeriac.kit.users import ChildUser
from tests.support.confined import confined
from tests.support.run_context import FUNCTIONS, RecordingContext
from tests.support.runners import PythonRunner
from tests.support.sandboxes import confined_user


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
