"""examples/sales: its own tests, and its README block by block on answers of its cassettes."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from celeriac.client import Client
from celeriac.domain.cassettes import Response, parse, write_body
from tests.support.command_line import CommandLine, running_up
from tests.support.docs import Block, blocks
from tests.support.docs_plan import RUN, SALES
from tests.support.model_server import Exchange, ModelServer
from tests.support.places import temporary_directory
from tests.support.programs import REPOSITORY, Program
from tests.support.waiting import wait_until

_EXAMPLE = REPOSITORY / "examples" / "sales"
_PAGE = "examples/sales/README.md"
_API = "http://127.0.0.1:8000"
_SECONDS = 100
_SERVES = re.compile(r"running on (http://127\.0\.0\.1:\d+)")
_ELSEWHERE = ("celeriac up ", "pytest")
"""Words of blocks that the fixture and another test run."""
_KEPT = ("TASK", "BATCH")
"""Variables of the shell that later blocks use."""


class Recorded(dict[str, Callable[[Exchange], None]]):
    """Answers each question of the example as its cassettes have it."""

    def __init__(self) -> None:
        super().__init__()
        self._responses: dict[str, Response] = {}
        for file in (_EXAMPLE / "tests" / "cassettes").glob("*.jsonl"):
            for each in parse(file.read_bytes()).interactions:
                assert isinstance(each.request.body, dict)
                self._responses[_asked(each.request.body)] = each.response

    def __missing__(self, _: str) -> Callable[[Exchange], None]:
        """Return the scene of all questions."""
        return self._answer

    def _answer(self, exchange: Exchange) -> None:
        response = self._responses.get(_asked(exchange.received.body))
        if response is None:
            exchange.error(400, f"this was not recorded: {exchange.received.prompt}")
            return
        exchange.begin()
        for chunk in write_body(response):
            exchange.raw(chunk)
        exchange.finish()


def _asked(body: Mapping[str, Any]) -> str:
    """Return what the answer depends on; the order of fields in the schema is a part of it."""
    return json.dumps([body["messages"], body["response_format"]])


class Terminal:
    """A shell in a copy of the example, beside its API and a running system."""

    def __init__(self, commands: CommandLine, home: str, client: Client) -> None:
        self.client = client
        self.api = _API
        self._directory = commands.directory
        self._environment = {**commands.env, "CELERIAC_HOME": home}
        self._state = commands.directory / "variables.sh"
        self._state.touch()
        self.server: Program | None = None

    def type(self, block: Block) -> str:
        """Run a block to its end, which must be a good one; return what it printed."""
        script = block.text.replace(_API, self.api)
        if "approvals answer" in script:
            wait_until(
                lambda: list(self.client.approvals.list(status="open")),
                "the workflow asks",
                within=60,
            )
        lines = ["set -euo pipefail", f". {self._state}", script]
        kept = "; ".join(f'[ -z "${{{name}:-}}" ] || declare -p {name}' for name in _KEPT)
        done = subprocess.run(
            ["bash", "-c", "\n".join([*lines, f"{{ {kept}; }} > {self._state}"])],
            cwd=self._directory,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{script}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def serve(self, block: Block) -> None:
        """Run the API of the example, on a free port."""
        arguments = ["-m", *block.text.replace("8000", "0").split()]
        log = self._directory / "sales.log"
        self.server = server = Program("sales", arguments, self._environment, log)

        def serves() -> bool:
            assert server.exit_code is None, server.output()
            return _SERVES.search(log.read_text()) is not None

        wait_until(serves, "the API of the example serves", within=30)
        found = _SERVES.search(log.read_text())
        assert found is not None
        self.api = found[1]


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    with temporary_directory() as directory, ModelServer(Recorded()).running() as model:
        shutil.copytree(
            _EXAMPLE,
            directory,
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("__pycache__", "*.db", ".celeriac"),
        )
        providers = {"local": {"base_url": model.base_url, "api_key": "sk-none"}}
        commands = CommandLine(
            directory, CELERIAC_AGENT_MODULES="sales", CELERIAC_PROVIDERS=json.dumps(providers)
        )
        with running_up(commands, "--no-reload") as up, up.client() as client:
            made = Terminal(commands, up.facts["home"], client)
            try:
                yield made
            finally:
                if made.server is not None:
                    made.server.terminate()
                    made.server.wait_end()
                    made.server.close()


@pytest.mark.requirement("E4")
@pytest.mark.timeout(240)  # two dozen commands, one after the other
@pytest.mark.skipif(shutil.which("curl") is None, reason="the README needs curl")
def test_the_readme_leads_from_a_lead_to_a_sweep(terminal: Terminal) -> None:
    printed = ""
    for block in blocks(_PAGE):
        if "uvicorn" in block.text:
            terminal.serve(block)
        elif block.language == "sh" and not any(words in block.text for words in _ELSEWHERE):
            printed += terminal.type(block)
    assert '"company":"Kornspeicher"' in printed, printed
    assert '"industry":"retail"' in printed, printed
    assert "accepted" in printed, printed

    client = terminal.client
    wait_until(
        lambda: {each.status for each in client.executions.list()} == {"completed"},
        "all executions are completed",
        within=60,
    )
    leads = httpx.get(f"{terminal.api}/leads", trust_env=False).json()
    assert len(leads) == 8
    assert all(lead["score"] for lead in leads)
    denied, agreed = [client.workflow_runs.get(each.id) for each in client.workflow_runs.list()]
    assert (agreed.result["leads"], agreed.result["failed"]) == (6, 0)
    assert (agreed.result["enriched"], denied.result["enriched"]) == (3, 0)

    answer = httpx.post(f"{terminal.api}/leads/1/enrich", trust_env=False)
    assert answer.status_code == 202
    assert answer.json()["status"] == "queued"
    done = client.executions.wait(answer.json()["task_id"], timeout=_SECONDS)
    assert done.result["industry"]
    task = httpx.get(f"{terminal.api}/tasks/{done.id}", trust_env=False).json()
    assert (task["status"], task["result"]["id"]) == ("completed", 1)


def test_its_tests_pass_in_a_process_that_has_no_key_and_no_server(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(_EXAMPLE)],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_readme_shows_the_code_of_the_example() -> None:
    [shown] = [block.text for block in blocks(_PAGE) if block.language == "python"]
    assert shown in (_EXAMPLE / "sales" / "agents.py").read_text()


def test_it_uses_nothing_but_what_is_public() -> None:
    imports = re.compile(r"^\s*(?:from|import) (celeriac[\w.]*)", re.MULTILINE)
    found = {each for file in _EXAMPLE.rglob("*.py") for each in imports.findall(file.read_text())}
    assert found == {"celeriac", "celeriac.testing"}


def test_every_block_of_its_page_is_run_here() -> None:
    known = [words for (page, words), how in RUN.items() if (page, how) == (_PAGE, SALES)]
    assert len(known) == len(blocks(_PAGE))
