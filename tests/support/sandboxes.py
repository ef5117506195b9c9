"""Sandboxes for tests; without bubblewrap the test skips and says so."""

import os
import shutil
import sys
from pathlib import Path

import pydantic
import pytest

from celeriac.kit.sandbox import PROGRAM, Sandbox
from celeriac.kit.users import OURSELVES, ChildUser
from celeriac.settings import Settings
from celeriac.wiring.confinement import checked_sandbox
from tests.support.confined import agent_user
from tests.support.programs import REPOSITORY

TMP_MB, FILE_MB, PROCESSES = 8, 16, 40


def confined_user() -> ChildUser:
    """Return the user of confined processes: ours or, where we are root, that of agents."""
    return agent_user() if os.geteuid() == 0 else OURSELVES


def sandbox_for(home: Path, **changed: object) -> Sandbox:
    """Return a sandbox for programs of this Python that hides `home`; it is tried first."""
    if shutil.which(PROGRAM) is None:
        pytest.skip("bubblewrap is not installed: apt install bubblewrap")
    settings = Settings.load(
        home=home,
        DATABASE_URL=None,  # a test may have put anything there
        confinement={
            "driver": "bubblewrap", "tmp_mb": TMP_MB, "file_mb": FILE_MB, "processes": PROCESSES,
            "reads": [sys.prefix, sys.base_prefix, str(packages()), str(REPOSITORY / "tests")],
            **changed,
        },
    )  # fmt: skip
    sandbox = checked_sandbox(settings, confined_user(), home / "work")
    assert sandbox is not None
    return sandbox


def packages() -> Path:
    """Return the directory of the installed packages, which a worktree may borrow by links."""
    return Path(pydantic.__file__).resolve().parents[1]
