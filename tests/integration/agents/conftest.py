"""A python runner, and a context to run it in."""

import os
from pathlib import Path

import pytest

from tests.support.confined import confined
from tests.support.run_context import FUNCTIONS, RecordingContext
from tests.support.runners import PythonRunner


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
