"""CrewAI's own environment: what is there, and installations that can't succeed."""

import json
import os
import sys
from pathlib import Path

import pytest

from celeriac.agents.crewai.venv import LOCK, CrewVenv, State, crewai_version, lock_hash
from celeriac.cli import crews
from celeriac.cli.crews import CrewaiInstallError, install_environment
from celeriac.embedded.home import reserve_port
from tests.support.crews import require_crewai


def made(root: Path, stamp: object | None, *, python: bool = True) -> CrewVenv:
    venv = CrewVenv(root)
    (root / "bin").mkdir(parents=True)
    if python:
        venv.python.symlink_to(sys.executable)
    if stamp is not None:
        venv.stamp.write_text(json.dumps(stamp))
    return venv


def test_what_is_there_is_told_apart(tmp_path: Path) -> None:
    good = {"lock": lock_hash()}
    venvs = {
        State.MISSING: CrewVenv(tmp_path / "nothing"),
        State.UNFINISHED: made(tmp_path / "begun", None),
        State.OUTDATED: made(tmp_path / "old", {"lock": "another"}),
        State.BROKEN: made(tmp_path / "moved", good, python=False),
        State.READY: made(tmp_path / "good", good),
    }
    for state, venv in venvs.items():
        assert venv.state() is state
        assert ("celeriac crews install" in venv.describe()) == (state is not State.READY)


def test_the_lock_is_complete_pinned_hashed_and_names_no_host() -> None:
    text = LOCK.read_text()
    pins = [line for line in text.splitlines() if line and line[0].isalnum()]
    assert f"crewai=={crewai_version()} \\" in pins
    assert len(pins) > 100
    assert all("==" in line and line.endswith("\\") for line in pins), "each is followed by hashes"
    assert "://" not in text
    assert len(text) < 500_000


def test_what_is_ready_is_left_alone() -> None:
    venv = require_crewai()
    before = venv.stamp.stat().st_mtime_ns
    told: list[str] = []
    assert install_environment(venv, report=told.append) is False
    assert (venv.stamp.stat().st_mtime_ns, told) == (before, [])


def test_too_little_room_is_told_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crews, "NEEDED_BYTES", 10**18)
    with pytest.raises(CrewaiInstallError, match="too little disk space") as raised:
        install_environment(CrewVenv(tmp_path / "crewai"), report=lambda _: None)
    assert "--venv" in (raised.value.cure or "")
    assert not (tmp_path / "crewai").exists()


def test_without_a_network_the_error_says_so_and_what_was_done_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{reserve_port()}/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    venv = CrewVenv(tmp_path / "crewai")

    told: list[str] = []
    for _ in range(2):
        told.clear()
        with pytest.raises(CrewaiInstallError, match="can't be fetched") as raised:
            install_environment(venv, report=told.append)
        assert "run this again" in (raised.value.cure or "")
        assert venv.state() is State.UNFINISHED
    assert not any("virtual environment" in line for line in told), "the second try goes on"
