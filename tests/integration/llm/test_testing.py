"""`celeriac.testing`: agents run in tests, on cassettes and on models (docs/testing-agents.md)."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from celeriac.domain.approvals import Answer, Question
from celeriac.domain.cassettes import dump
from celeriac.domain.errors import InvalidInputError, ProviderRefusedError, VariablesInvalidError
from celeriac.embedded.endpoints import Endpoints, RunningStack, publish_stack
from celeriac.embedded.home import Home, holding_lock
from celeriac.kit.processes import identify
from celeriac.testing import run_agent
from tests.support.cassettes import cassette
from tests.support.llm_jobs import TICKET_SCHEMA
from tests.support.model_scenes import KEY
from tests.support.model_server import ModelServer
from tests.support.run_context import FUNCTIONS
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "testing"
AGENT: dict[str, Any] = {"runner": "llm", "model": "openai/model"}
TASK: dict[str, Any] = {"prompt": "{{ scene }} {{ more }}"}


@pytest.fixture
def openai(model_server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> ModelServer:
    """The provider `openai`, as a user has it in the environment."""
    monkeypatch.setenv("OPENAI_BASE_URL", model_server.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    return model_server


def _variables(scene: str) -> dict[str, str]:
    return {"scene": scene, "more": ""}


def test_the_page_shows_the_example(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "testing-agents.md").read_text()
    for name in ("test_sorter.py", "test_refunds.py"):
        assert (EXAMPLE / name).read_text() in page


def test_the_example_passes_in_a_process_that_has_no_key_and_no_server(tmp_path: Path) -> None:
    arguments = ["-p", "no:cacheprovider", "-c", "/dev/null", f"--rootdir={EXAMPLE}", str(EXAMPLE)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *arguments],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "4 passed" in done.stdout, done.stdout + done.stderr


def test_what_is_recorded_in_a_test_is_replayed_in_it(openai: ModelServer, tmp_path: Path) -> None:
    file = tmp_path / "hurried.jsonl"
    first = run_agent(AGENT, TASK, _variables("hurried"), file, record=True)
    assert len(openai.received) == 2
    again = run_agent(AGENT, TASK, _variables("hurried"), file)
    assert len(openai.received) == 2
    assert (first.result, first.messages) == (again.result, again.messages)
    assert KEY not in file.read_text()


def test_the_model_server_of_the_running_home_is_found(
    model_server: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home.open(tmp_path / ".celeriac")
    monkeypatch.chdir(tmp_path)
    me = identify(os.getpid())
    assert me is not None
    endpoints = Endpoints(
        database_url="postgresql://d",
        redis_url="redis://r",
        broker_url="redis://b",
        result_backend="redis://c",
        model_base_url=model_server.base_url,
    )
    agent = {**AGENT, "model": "local/model"}
    file = tmp_path / "plain.jsonl"
    with holding_lock(home):
        publish_stack(home, RunningStack(endpoints=endpoints, supervisor=me, pids={}))
        recorded = run_agent(agent, TASK, _variables("plain"), file, record=True)
    assert len(model_server.received) == 1
    assert run_agent(agent, TASK, _variables("plain"), file).result == recorded.result
    assert not (home.root / "work").exists(), "nothing of a test is written there"


def test_a_person_answers_in_a_test(openai: ModelServer, tmp_path: Path) -> None:
    agent = {**AGENT, "may_ask": True}
    task = {**TASK, "output_schema": TICKET_SCHEMA}
    file = tmp_path / "ticket.jsonl"

    def answer(question: Question) -> Answer:
        assert question.title == "Which category?"
        return Answer(approved=True, value="outage")

    for record in (True, False):
        run = run_agent(agent, task, _variables("ticket"), file, record=record, answer=answer)
        assert run.result["category"] == "outage"
        assert len(run.questions) == 1
    with pytest.raises(InvalidInputError, match="Give run_agent an `answer`"):
        run_agent(agent, task, _variables("ticket"), file)


@pytest.mark.parametrize("function", ["ask_in_child", "ask_on_loop"])
def test_a_persons_time_does_not_count_against_the_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    monkeypatch.setenv("CELERIAC_AGENT_MODULES", FUNCTIONS)
    agent = {"runner": "python", "function": f"{FUNCTIONS}:{function}"}
    task = {"limits": {"soft_seconds": 5, "hard_seconds": 6}}

    def answer(question: Question) -> Answer:
        until = time.monotonic() + 6.5
        wait_until(lambda: time.monotonic() > until, "the hard limit has passed")
        return Answer(approved=True, value="Monday")

    file = tmp_path / "x.jsonl"
    run = run_agent(agent, task, {"mail": "a@b.example"}, file, record=True, answer=answer)

    assert run.result["why"] == "Monday"


def test_a_failure_is_raised_and_what_was_recorded_is_kept(
    openai: ModelServer, tmp_path: Path
) -> None:
    file = tmp_path / "unauthorized.jsonl"
    for record in (True, False):
        with pytest.raises(ProviderRefusedError):
            run_agent(AGENT, TASK, _variables("unauthorized"), file, record=record)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"agent": {"runner": "llm"}}, InvalidInputError, "agent.llm.model"),
        ({"agent": "no-such.json"}, InvalidInputError, "no-such.json holds no agent"),
        ({"task": {"prompt": 5}}, InvalidInputError, "task.prompt"),
        ({"cassette": "no-such.jsonl"}, InvalidInputError, "--record-to no-such.jsonl"),
        (
            {"task": {"variables_schema": {"type": "object", "required": ["who"]}}},
            VariablesInvalidError,
            "who",
        ),
    ],
)
def test_wrong_input_is_named(
    tmp_path: Path, change: dict[str, Any], error: type[Exception], words: str
) -> None:
    given = {"agent": AGENT, "task": TASK, "cassette": tmp_path / "x.jsonl", **change}
    if "cassette" not in change:
        (tmp_path / "x.jsonl").write_text(dump(cassette()))
    with pytest.raises(error, match=words):
        run_agent(given["agent"], given["task"], _variables("plain"), given["cassette"])
