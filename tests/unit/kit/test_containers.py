"""Templates of container engines: what is refused, and how they are filled in."""

import json
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from celeriac.domain.errors import ConfigurationError
from celeriac.kit import container_entry
from celeriac.kit.child_bootstrap import CANNOT_GUARD, NO_GUARD
from celeriac.kit.container_client import ENVIRONMENT
from celeriac.kit.containers import ContainerSandbox, Engine, checked_command, checked_stop
from celeriac.kit.processes import UserIds
from celeriac.settings import Settings

pytestmark = pytest.mark.requirement("F25")

COMMAND = ("engine", "-v={read}:{read}:ro", "-v={write}:{write}", "-u={user}:{group}", "{image}")


@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        ("{secret}", "unknown placeholder {secret}"),
        ("{}", "unknown placeholder {}"),
        ("{name!r}", "unknown placeholder {name}"),
        ("{name:>9}", "unknown placeholder {name}"),
        ("{name.x}", "unknown placeholder {name.x}"),
        ("{read}:{write}", "one argument, one kind"),
        ("a{", "has a single brace in 'a{': double it"),
        ("}", "has a single brace in '}': double it"),
    ],
)
def test_what_is_no_placeholder_is_refused(argument: str, reason: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is compared
        checked_command((*COMMAND, argument))
    assert reason in str(caught.value)


@pytest.mark.parametrize("place", [1, 2, 3])
def test_a_command_without_a_needed_placeholder_is_refused(place: int) -> None:
    with pytest.raises(ValueError, match=r"must use .*, as in --volume={read}:{read}:ro"):
        checked_command(COMMAND[:place] + COMMAND[place + 1 :])


def test_a_stop_has_the_name_alone() -> None:
    assert checked_stop(("engine", "rm", "{name}")) == ("engine", "rm", "{name}")
    for wrong in (("engine", "rm"), ("engine", "{name}", "{image}")):
        with pytest.raises(ValueError, match=r"must use {name} and no other"):
            checked_stop(wrong)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({}, "needs CELERIAC_CONFINEMENT_CONTAINER_COMMAND"),
        ({"container_command": ["x", "{y}"]}, "CELERIAC_CONFINEMENT_CONTAINER_COMMAND has the unk"),
        ({"container_command": COMMAND}, "set CELERIAC_CONFINEMENT_CONTAINER_IMAGE"),
        ({"container_stop": ["x"]}, "CELERIAC_CONFINEMENT_CONTAINER_STOP must use"),
        (
            {"container_command": COMMAND, "container_image": "i", "network": "host"},
            "NETWORK=host can't be combined",
        ),
    ],
)
def test_settings_name_the_variable_and_the_cure(
    tmp_path: Path, changed: dict[str, object], reason: str
) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        Settings.load(home=tmp_path, confinement={"driver": "container", **changed})


def test_an_image_in_double_braces_needs_no_setting(tmp_path: Path) -> None:
    command = [*COMMAND[:-1], "--label={{image}}"]
    settings = Settings.load(
        home=tmp_path, confinement={"driver": "container", "container_command": command}
    )
    assert settings.confinement.container_command == tuple(command)


def sandbox_of(home: Path, *more: str) -> ContainerSandbox:
    engine = Engine(start=(*COMMAND[:-1], *more, "{image}"), image="i:1", root=home / "containers")
    return ContainerSandbox(
        engine=engine, inside=UserIds(7, 8), hidden=(home,), tmp_bytes=5 << 20, processes=9
    )


def started(sandbox: ContainerSandbox, workdir: Path) -> list[str]:
    given = json.loads(sandbox.command(["program", "--x"], workdir=workdir)[4])
    start: list[str] = given["start"]
    return start


def test_a_template_is_filled_in(tmp_path: Path) -> None:
    home = tmp_path / "home"
    for name in ("home/work", "library"):
        (tmp_path / name).mkdir(parents=True)
    given = ("--memory={memory_mb}m", "--pids={processes}", "--tmp={tmp_mb}", "--name={name}", "{{")
    sandbox = replace(sandbox_of(home, *given), reads=(tmp_path / "library",)).named(64 << 20)

    line = started(sandbox, home / "work")

    assert line[0] == "engine"
    assert f"-v={tmp_path}/library:{tmp_path}/library:ro" in line
    assert f"-v={home}/work:{home}/work" in line
    assert f"-v={home}/containers/{sandbox.name}:{home}/containers/{sandbox.name}:ro" in line
    place = line.index("-u=7:8")
    assert line[place + 1 : place + 7] == [
        "--memory=64m", "--pids=9", "--tmp=5", f"--name={sandbox.name}", "{", "i:1",
    ]  # fmt: skip
    assert line[place + 7 : place + 10] == ["python3", "-I", "-S"]
    without = started(sandbox_of(home, *given).named(), home / "work")
    assert not [each for each in without if each.startswith("--memory")]


def test_variables_of_the_engine_are_on_no_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_AUTH_CONFIG", "a-password")
    monkeypatch.setenv("CELERIAC_DATABASE_URL", "another-one")
    (tmp_path / "work").mkdir()
    sandbox = sandbox_of(tmp_path / "home").named()

    line = sandbox.command(["program"], workdir=tmp_path / "work")

    assert "a-password" not in " ".join(line)
    kept = tmp_path / "home" / "containers" / sandbox.name / ENVIRONMENT
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    variables = json.loads(kept.read_text())
    assert variables["DOCKER_AUTH_CONFIG"] == "a-password"
    assert "CELERIAC_DATABASE_URL" not in variables


def test_a_first_process_without_its_worker_says_so_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", container_entry.__file__, str(tmp_path)],
        capture_output=True, check=False, text=True, timeout=30,
    )  # fmt: skip

    assert done.returncode == CANNOT_GUARD
    assert done.stderr.startswith(f"{NO_GUARD}a container: ")
    assert len(done.stderr.splitlines()) == 1


def test_what_can_not_be_shown_safely_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "work").mkdir(parents=True)
    wide = replace(sandbox_of(home).named(), reads=(tmp_path,))
    with pytest.raises(OSError, match=r"would be seen inside.*--tmpfs={hidden}"):
        wide.command(["x"], workdir=home / "work")
    covering = replace(sandbox_of(home, "--tmpfs={hidden}").named(), reads=(tmp_path,))
    assert f"--tmpfs={home}" in started(covering, home / "work")
    (tmp_path / "a:b").mkdir()
    odd = replace(sandbox_of(home).named(), reads=(tmp_path / "a:b",))
    with pytest.raises(OSError, match="colons and commas"):
        odd.command(["x"], workdir=home / "work")
