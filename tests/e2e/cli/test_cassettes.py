"""A run is recorded on a real worker, and replayed from the command line without its model."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from celeriac.client import Client
from celeriac.domain.agents import LlmAgent
from tests.support.command_line import CommandLine
from tests.support.model_scenes import KEY
from tests.support.model_server import ModelServer

pytestmark = pytest.mark.usefixtures("up", "talk")


@pytest.fixture(scope="module")
def talk(client: Client) -> None:
    """A task whose agent asks the scripted model."""
    client.agents.create("talker", LlmAgent(model="scripted/model"))
    client.tasks.create("talk", "talker", {"prompt": "{{ scene }} {{ topic }}"})


@pytest.fixture
def silent(scripted: ModelServer) -> Iterator[ModelServer]:
    """The model, which must not be asked from here on."""
    scripted.forget()
    yield scripted
    assert scripted.received == [], "a replay asks no model"


@pytest.fixture(scope="module")
def recording(commands: CommandLine, talk: None) -> tuple[Path, str]:
    """A run with a retry inside, recorded: its cassette's file and its id."""
    file = commands.directory / "hurried.jsonl"
    run = commands.ask("run", "talk", "--var", "scene=hurried", "--var", "topic=x",
                       "--record-to", str(file))  # fmt: skip
    assert run["result"] == "Now."
    assert run["model_call_count"] == 1
    assert run["_links"]["cassette"].endswith(run["id"])
    return file, run["id"]


def test_a_cassette_is_a_file_without_keys(recording: tuple[Path, str]) -> None:
    text = recording[0].read_text()
    assert KEY not in text
    assert text.splitlines()[0].startswith('{"celeriac_cassette":1,"task":"talk"')
    assert len(text.splitlines()) == 3, "a header, the refusal and the answer"


@pytest.mark.parametrize("place", [0, 1], ids=["file", "execution"])
def test_it_replays_from_its_file_and_from_its_execution(
    commands: CommandLine,
    client: Client,
    silent: ModelServer,
    recording: tuple[Path, str],
    place: int,
) -> None:
    run = commands.ask("run", "talk", "--var", "scene=hurried", "--var", "topic=x",
                       "--replay", str(recording[place]))  # fmt: skip
    assert run["result"] == "Now."
    assert run["cost"] == "0.00"
    events = client.executions.events(run["id"])
    (call,) = [event.data for event in events if event.type == "model_call"]
    assert call["provider"] == "cassette/scripted"


def test_another_prompt_fails_for_good_and_says_where_it_differs(
    commands: CommandLine, silent: ModelServer, recording: tuple[Path, str]
) -> None:
    run = commands.run("run", "talk", "--var", "scene=hurried", "--var", "topic=carpets",
                       "--replay", recording[1])  # fmt: skip
    assert run.code == 1
    assert "[cassette_mismatch]" in run.err
    assert "carpets" in run.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--replay", "no-such-file"), 2, "There is no file no-such-file"),
        (("--replay", "01234567-89ab-7def-8123-456789abcdef"), 3, "There is no cassette"),
        (("--replay", "x", "--record"), 2, "can't be combined"),
        (("--record-to", "x", "--detach"), 2, "--detach doesn't wait"),
    ],
)
def test_wrong_wishes_are_refused(
    commands: CommandLine, arguments: tuple[str, ...], code: int, words: str
) -> None:
    run = commands.run("run", "talk", "--var", "scene=plain", "--var", "topic=x", *arguments)
    assert run.code == code, run.err
    assert words in run.err


def test_the_group_keeps_and_hands_out_cassettes(
    commands: CommandLine, recording: tuple[Path, str], tmp_path: Path
) -> None:
    file, execution_id = recording
    uploaded = commands.ask("cassettes", "upload", str(file), "--name", "kept")
    listed = {each["id"]: each for each in commands.ask("cassettes", "list")}
    assert listed[uploaded["id"]]["name"] in {"kept", "hurried"}
    assert listed[execution_id]["execution_id"] == execution_id
    shown = commands.run("cassettes", "show", execution_id)
    assert "POST /chat/completions" in shown.out
    assert "429" in shown.out
    assert commands.run("cassettes", "download", execution_id).out == file.read_text()
    copy = tmp_path / "copy.jsonl"
    assert commands.run("cassettes", "download", execution_id, str(copy)).code == 0
    assert copy.read_text() == file.read_text()
    assert commands.run("cassettes", "download", execution_id, str(copy)).code == 1
    assert commands.run("cassettes", "delete", uploaded["id"]).code == 0
    assert commands.run("cassettes", "show", uploaded["id"]).code == 3
