"""The examples of docs/*.md, block by block, on one running system with a scripted model."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from celeriac.client import Client
from tests.support.command_line import CommandLine, RunningUp, running_up
from tests.support.docs import Block, blocks
from tests.support.docs_plan import LIVE, RUN, SETTINGS
from tests.support.model_scenes import SCENES
from tests.support.model_server import Exchange, ModelServer
from tests.support.places import temporary_directory
from tests.support.programs import REPOSITORY
from tests.support.waiting import wait_until

_SECONDS = 100
_COUNT = str(REPOSITORY / "examples" / "command" / "word-count.sh")
_ID = "0199f3a2-…"
_CLIENT = "from celeriac import Client\nclient = Client.from_env()\n"
_ASKER = """
import celeriac


@celeriac.agent("asker")
async def asker(ctx: celeriac.AgentContext, to: str) -> bool:
    return (await ctx.approve("send_mail", {"to": to})).approved
"""


class AnyScene(dict[str, Callable[[Exchange], None]]):
    """Answers whatever documents ask."""

    def __missing__(self, _: str) -> Callable[[Exchange], None]:
        """Return the scene of prompts that no scene is named after."""
        return SCENES["plain"]


class Stage:
    """The system, and a directory in which examples are typed."""

    def __init__(self, commands: CommandLine, up: RunningUp, client: Client) -> None:
        self.client = client
        self.directory = commands.directory
        key = Path(up.facts["key_file"]).read_text().strip()
        self.environment = {**commands.env, "CELERIAC_HOME": up.facts["home"]}
        self.texts = {"http://127.0.0.1:8321": up.facts["api_url"], "cel_…": key}
        self.key = key

    def shell(self, script: str, **env: str) -> str:
        """Run a script to its end, which must be a good one; return what it printed."""
        return self._run("bash", "-c", f"set -euo pipefail\n{script}", **env)

    def python(self, program: str) -> str:
        """Run a program to its end, which must be a good one; return what it printed."""
        return self._run(sys.executable, "-c", program)

    def _run(self, *command: str, **env: str) -> str:
        done = subprocess.run(
            command,
            cwd=self.directory,
            env={**self.environment, **env},
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def clear(self) -> None:
        """Delete all tasks and agents, so that each page finds their names free."""
        assert not list(self.client.pauses.list()), "a page leaves something paused"
        for task in list(self.client.tasks.list()):
            self.client.tasks.delete(task.id, cancel=True)
        for agent in list(self.client.agents.list()):
            self.client.agents.delete(agent.id)


@pytest.fixture(scope="module")
def system() -> Iterator[Stage]:
    with temporary_directory() as directory, ModelServer(AnyScene(SCENES)).running() as server:
        url = server.base_url
        providers = {"openai": {"base_url": url, "api_key": "sk-none"}}
        providers["local"] = providers["openai"]
        commands = CommandLine(
            directory,
            CELERIAC_AGENT_MODULES="shop,asking",
            CELERIAC_COMMANDS=json.dumps({"word-count": [_COUNT]}),
            CELERIAC_PROVIDERS=json.dumps(providers),
            CELERIAC_MCP_SERVERS=json.dumps(
                {name: {"command": ["cat"]} for name in ("files", "crm")}
            ),
        )
        (directory / "examples").symlink_to(REPOSITORY / "examples")
        (directory / "asking.py").write_text(_ASKER)
        (directory / "cassettes").mkdir()
        with running_up(commands, "--no-reload") as up, up.client() as client:
            yield Stage(commands, up, client)


@pytest.fixture
def stage(system: Stage) -> Stage:
    system.clear()
    return system


@dataclass(frozen=True, slots=True)
class Page:
    """What the examples of a page take for granted, and what must be printed.

    `before` is typed first. `program` and `after` stand
    around Python blocks. `printed` are words of the outputs.
    """

    before: str = ""
    program: str = ""
    after: str = ""
    printed: tuple[str, ...] = ()


_TEXT = "celeriac agents create writer --model local/smollm2 --set keep_session:=true\n"

PAGES: dict[str, Page] = {
    "docs/api.md": Page(program=_CLIENT, printed=("Hello there, friend.", "retried: 0")),
    "docs/apply.md": Page(printed=("Hello there, friend.", "6 created", "\n0 0 6\n")),
    "docs/approvals.md": Page(
        program=_CLIENT,
        after="from celeriac.adapters.webhook import signature\nnow = int(time.time())\n"
        'assert is_genuine(signature("s", b"{}", at=now), b"{}", "s")\n'
        'assert not is_genuine(signature("s", b"{}", at=now), b"{ }", "s")\n',
    ),
    "docs/budgets.md": Page(
        before=_TEXT
        + "celeriac tasks create summarise --agent writer --prompt 'Sum {{ text }}'\n"
        + "celeriac workspaces create research\nceleriac run summarise --var text=a",
        printed=("smollm2", "summarise"),
    ),
    "docs/bulk-jobs.md": Page(
        before=_TEXT
        + "celeriac tasks create summarise --agent writer --prompt 'Sum {{ text }}'\n"
        + "celeriac budgets set day --task summarise --tokens 1\n"
        + "! celeriac run summarise --var text=a\nceleriac pause queue task_execution --reason r\n"
        + "celeriac run summarise --var text=b --detach\n"
        + "celeriac bulk move spare --queue task_execution --yes --wait\n"
        + "celeriac bulk prioritise high --queue spare --yes --wait\n"
        + "celeriac bulk items last --outcome done\nceleriac bulk show last\n"
        + "! celeriac bulk stop last\n"
        + "celeriac bulk cancel --queue spare --yes --wait\n"
        + "celeriac resume queue task_execution\n"
        + 'celeriac bulk start "$(celeriac bulk replay --task summarise --status failed --dry-run)"'
        + " --wait\nceleriac bulk delete --status cancelled --yes --wait",
        program=_CLIENT,
        printed=("queue: spare", "1 done", "\n0 retried", "prioritise high"),
    ),
    "docs/cassettes.md": Page(
        before=_TEXT + "celeriac tasks create qualify --agent writer --prompt 'Is {{ lead }}?'\n"
        "celeriac run qualify --var lead=ACME --record",
        printed=("Hello there, friend.",),
    ),
    "docs/command-agents.md": Page(printed=('"words": 3',)),
    "docs/hooks.md": Page(
        before=_TEXT
        + "celeriac tasks create summarise --agent writer --prompt 'Sum {{ text }}'\n"
        + "celeriac hooks create --task summarise",
        printed=("whsec_", "standard"),
    ),
    "docs/mcp-server.md": Page(printed=("cel_",)),
    "docs/failures.md": Page(
        before=_TEXT
        + "celeriac tasks create summarise --agent writer --prompt 'Sum {{ text }}'\n"
        + "celeriac budgets set day --task summarise --tokens 1\n"
        + "! celeriac run summarise --var text=a\n"
        # the keeper counts it
        + "timeout 60 bash -c 'until celeriac failures list | grep BudgetSpent; do :; done'\n"
        + "celeriac failures show last\nceleriac failures mute last --note noisy\n"
        + "celeriac failures list --all\nceleriac failures known last\n"
        + "celeriac failures resolve last\n! celeriac run summarise --var text=b\n"
        + "timeout 60 bash -c 'until celeriac failures list -s regressed | grep Spent; do :; done'",
        program=_CLIENT,
        printed=("budget_spent", "muted", "noisy", "regressed", "BudgetSpentError: "),
    ),
    "docs/labels.md": Page(
        before=_TEXT
        + "celeriac tasks create summarise --agent writer --prompt 'Sum {{ text }}'\n"
        + "celeriac run summarise --var text=a --label release=2.1",
        program=_CLIENT,
        printed=("reviewed=yes",),
    ),
    "docs/logs.md": Page(
        before=_TEXT + "celeriac tasks create t --agent writer --prompt Hi\nceleriac run t",
        program=_CLIENT + "execution_id = next(iter(client.executions.list())).id\n",
        printed=("execution.created", "execution.picked_up", "execution.completed", "info "),
    ),
    "docs/metrics.md": Page(program=_CLIENT, printed=("SUCCESS", "in all")),
    "docs/python-agents.md": Page(printed=('"score": 42',)),
    "docs/reports.md": Page(
        before=_TEXT + "celeriac tasks create t --agent writer --prompt Hi\nceleriac run t"
    ),
    "docs/sessions.md": Page(
        before=_TEXT + "celeriac tasks create review --agent writer --prompt 'Review {{ pr }}'",
        program=_CLIENT,
        printed=("Hello there, friend.",),
    ),
    "docs/testing-agents.md": Page(
        before=_TEXT + "celeriac tasks create sort --agent writer --prompt 'Sort {{ text }}'",
        printed=("Hello there, friend.",),
    ),
    "docs/tools.md": Page(printed=("clerk",)),
    "docs/webhooks.md": Page(
        before="celeriac webhooks create https://hooks.example/a -e execution.failed",
        after="from celeriac.domain.webhooks import signed_headers\n"
        "secret, other, now = 'whsec_' + 'a' * 32, 'whsec_' + 'b' * 32, int(time.time())\n"
        "assert is_genuine(secret, signed_headers([secret], 'm', now, b'{}'), b'{}')\n"
        "assert not is_genuine(secret, signed_headers([secret], 'm', now, b'{}'), b'{ }')\n"
        "assert not is_genuine(secret, signed_headers([secret], 'm', now - 360, b'{}'), b'{}')\n"
        "assert is_genuine(secret, signed_headers([other, secret], 'm', now, b'{}'), b'{}')\n",
        printed=("whsec_", "https://hooks.example/a"),
    ),
}


def test_every_page_with_live_examples_is_run() -> None:
    assert set(PAGES) == {page for (page, _), how in RUN.items() if how == LIVE}


_SESSION = (
    "$(celeriac executions list --json | python -c 'import json, sys; f = json.load(sys.stdin); "
    'print((f["items"] if isinstance(f, dict) else f)[0]["session_id"])\')'
)
"""Prints the session of the newest execution, which a command before has made."""


def filled(stage: Stage, block: Block) -> str:
    """Return a block with this system's address, key and ids."""
    text = block.text
    for words, ours in stage.texts.items():
        text = text.replace(words, ours)
    if f"--user {_ID}" in text:
        text = text.replace(f"--user {_ID}", f"--user {next(stage.client.users.list()).id}")
    text = text.replace(f"--session {_ID}", f"--session {_SESSION}")
    if _ID in text:
        text = text.replace(_ID, str(next(stage.client.executions.list()).id))
    return text


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.skipif(shutil.which("curl") is None, reason="the examples need curl")
def test_the_examples_of_the_page_work(stage: Stage, page: str) -> None:
    plan = PAGES[page]
    printed = stage.shell(plan.before) if plan.before else ""
    for block in blocks(page):
        printed += play(stage, page, block, plan)
    for words in plan.printed:
        assert words in printed, f"{words!r} was not printed:\n{printed}"


def play(stage: Stage, page: str, block: Block, plan: Page) -> str:
    """Run a block, or save it where it is a file; return what it printed."""
    if block.language == "yaml":
        name = re.match(r"# (\S+)", block.text)
        assert name is not None, f"{block} names no file"
        (stage.directory / name[1]).write_text(block.text)
        return ""
    how = [how for (place, words), how in RUN.items() if place == page and words in block.text]
    if how != [LIVE]:
        return ""
    if page == "docs/python-agents.md" and block.language == "python":
        return save_agents(stage, block)
    if "approvals/$ID" in block.text:
        return answer_by_curl(stage, block)
    if block.language == "sh":
        return stage.shell(filled(stage, block))
    after = plan.after if "hmac" in block.text else ""
    return stage.python(plan.program + filled(stage, block) + after)


def save_agents(stage: Stage, block: Block) -> str:
    """Add a function to the package `shop`, whose helper the page leaves to the reader."""
    package = stage.directory / "shop"
    package.mkdir(exist_ok=True)
    (package / "__init__.py").touch()
    module = package / "agents.py"
    before = module.read_text() if module.exists() else "def send_mail(**mail): ...\n\n"
    module.write_text(before + block.text)
    return ""


def answer_by_curl(stage: Stage, block: Block) -> str:
    stage.shell("celeriac apply --module asking && celeriac run asker --var to=ada --detach")
    wait_until(lambda: list(stage.client.approvals.list()), "the agent asks")
    chosen = next(iter(stage.client.approvals.list())).id
    return stage.shell(filled(stage, block), ID=str(chosen), CELERIAC_API_KEY=stage.key)


_SETTINGS = [key for key, how in RUN.items() if how == SETTINGS]


@pytest.mark.parametrize(("page", "words"), _SETTINGS, ids=str)
def test_variables_of_the_page_are_settings(page: str, words: str) -> None:
    [block] = [each for each in blocks(page) if each.language == "sh" and words in each.text]
    script = block.text.replace("celeriac worker\n", "")
    load = (
        "from celeriac.settings import Settings; found = Settings.load();"
        ' parts = [found, *(part for _, part in found if hasattr(part, "model_fields_set"))];'
        " print(set().union(*(part.model_fields_set for part in parts)))"
    )
    done = subprocess.run(
        ["bash", "-c", f"set -aeuo pipefail\n{script}\n{sys.executable} -c '{load}'"],
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() != "set()", "no setting is named"
