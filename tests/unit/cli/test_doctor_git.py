"""What `celeriac doctor` says of git."""

from pathlib import Path

import pytest

from celeriac.cli.doctor.checks import check_git
from celeriac.domain.doctor import Level
from celeriac.settings import Settings


def settings(allow: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("CELERIAC_REPOSITORIES_ALLOW", allow)
    return Settings()


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is all of PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def place(programs: Path, name: str, script: str) -> None:
    (programs / name).write_text(f"#!/bin/sh\n{script}\n")
    (programs / name).chmod(0o755)


@pytest.mark.parametrize(
    ("allow", "script", "expected"),
    [
        ("", None, (Level.OK, "allows no repository")),
        ("https://", None, (Level.WARNING, "not there")),
        ("https://", "exit 1", (Level.WARNING, "does not run")),
        ("https://", "echo git version 2.36.6", (Level.WARNING, "2.36.6 is too old")),
        (
            "file:///srv",
            "echo git version 2.36.6",
            (Level.OK, "by the settings here, tasks may name file:///srv"),
        ),
        ("https://", "echo git version 2.39.5", (Level.OK, "git version 2.39.5")),
        ("ssh://git@h", "echo git version 2.39.5", (Level.WARNING, "no ssh")),
    ],
)
def test_git_must_be_new_enough_for_what_is_allowed(
    programs: Path,
    monkeypatch: pytest.MonkeyPatch,
    allow: str,
    script: str | None,
    expected: tuple[Level, str],
) -> None:
    level, message = expected
    if script is not None:
        place(programs, "git", script)
    found = check_git(settings(allow, monkeypatch))
    assert (found.code, found.level) == ("git", level)
    assert message in found.message
    assert (found.cure is None) is (level is Level.OK)


def test_an_ssh_is_enough(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place(programs, "git", "echo git version 2.39.5")
    place(programs, "ssh", "exit 0")
    assert check_git(settings("ssh://git@h", monkeypatch)).level is Level.OK
