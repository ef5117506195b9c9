"""Every code block of README.md and docs/ is run or read by a test, or is exempt for a reason.

Shell commands of `celeriac` are read by the command line's own parser, whether they are run or not;
data is read by what takes it in the product. `tests/e2e/readme` runs what `docs_plan.RUN` names.
"""

import ast
import importlib
import importlib.util
import json
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter

from celeriac.agents.models import Prices
from celeriac.api.v1.executions.schemas import RetryMany
from celeriac.domain.agents import AgentSpec, ApprovalPolicy
from celeriac.domain.cassettes import parse
from celeriac.domain.crews import CrewGraph
from celeriac.domain.prompts import Prompt
from celeriac.domain.tasks import TaskSpec
from celeriac.domain.webhooks import WebhookEvent
from celeriac.domain.workflows.document import parse as parse_workflow
from celeriac.kit.yaml_text import read_text
from celeriac.wire.base import Problem
from tests.support.docs import Block, check_command, command_lines, examples
from tests.support.docs_plan import EXEMPT, FILLED, RUN

BLOCKS = examples()
SHELL = [block for block in BLOCKS if block.language in {"sh", "console"}]
PYTHON = [block for block in BLOCKS if block.language == "python"]
DATA = [block for block in BLOCKS if block.language not in {"sh", "console", "python", "sql"}]


def read_agent(text: str) -> None:
    TypeAdapter[Any](AgentSpec).validate_json(json.dumps(json.loads(text)["spec"]))


def read_agents(text: str) -> None:
    for each in yaml.safe_load(text)["agents"]:
        read_agent(json.dumps(each))


def read_prices(text: str) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(text)
        file.flush()
        prices = Prices.load(Path(file.name))
    assert prices.version == json.loads(text)["version"]


def read_mcp(text: str) -> None:
    """The file of an MCP client: its command must be one of ours, its address our path."""
    server = json.loads(text)["mcpServers"]["celeriac"]
    if "command" in server:
        assert server["command"] == "celeriac"
        check_command(server["args"])
        assert set(server["env"]) == {"CELERIAC_API_URL", "CELERIAC_API_KEY"}
    else:
        assert server["url"].endswith("/mcp")
        assert server["headers"]["Authorization"].startswith("Bearer cel_")


def read_document(text: str) -> None:
    sections = {"agents", "tasks", "budgets", "limits", "schedules", "hooks"}
    assert set(yaml.safe_load(text)) == sections  # the e2e tests apply it


def read_task(text: str) -> None:
    (task,) = yaml.safe_load(text)["tasks"]
    TaskSpec.model_validate_json(json.dumps(task["spec"]))


def read_approvals(text: str) -> None:
    ApprovalPolicy.model_validate_json(json.dumps(json.loads(text)["approvals"]))


def read_webhook(text: str) -> None:
    assert set(json.loads(text)) == {"type", "approval", "links"}


def read_event(text: str) -> None:
    event = json.loads(text)
    assert set(event) == {"type", "timestamp", "data"}
    WebhookEvent(event["type"])


def read_spec(text: str) -> None:
    TypeAdapter[Any](AgentSpec).validate_json(text)


def read_entry_points(text: str) -> None:
    assert list(tomllib.loads(text)["project"]["entry-points"]) == ["celeriac.agents"]


def read_workflow(text: str) -> None:
    read = read_text(text, "workflow.yaml")
    assert read.faults == ()
    parse_workflow(read.value)


READERS: dict[tuple[str, str], Callable[[str], object]] = {
    ("docs/api.md", "urn:celeriac:problem"): Problem.model_validate_json,
    ("docs/api.md", '"created_after"'): RetryMany.model_validate_json,
    ("docs/apply.md", "# project.yaml"): read_document,
    ("docs/repositories.md", "name: fix"): read_task,
    ("docs/repositories.md", "name: mend"): read_task,
    ("docs/approvals.md", "expires_seconds"): read_approvals,
    ("docs/approvals.md", "approval.asked"): read_webhook,
    ("docs/cassettes.md", "celeriac_cassette"): lambda text: parse(text.encode()),
    ("docs/claude.md", '"coder"'): read_agent,
    ("docs/command-agents.md", '"command": "word-count"'): read_spec,
    ("docs/confinement.md", "name: reviewer"): read_agents,
    ("docs/crews.md", '"researcher"'): CrewGraph.model_validate_json,
    ("docs/mcp-server.md", '"command": "celeriac"'): read_mcp,
    ("docs/mcp-server.md", '"type": "http"'): read_mcp,
    ("docs/models.md", '"sorter"'): read_agent,
    ("docs/models.md", '"prices"'): read_prices,
    ("docs/prompts.md", "{% for"): Prompt,
    ("docs/python-agents.md", "entry-points"): read_entry_points,
    ("docs/secrets.md", '"GITHUB_TOKEN"'): read_spec,
    ("docs/secrets.md", '"x-access-token"'): read_spec,
    ("docs/tools.md", '"clerk"'): read_agent,
    ("docs/webhooks.md", "result_omitted"): read_event,
    ("docs/workflows.md", "workflow: brief"): read_workflow,
    ("docs/workflows.md", "workflow: review"): read_workflow,
    ("docs/workflows.md", "workflow: sweep-leads"): read_workflow,
    ("docs/workflows.md", "workflow: publish"): read_workflow,
    ("docs/workflows.md", '"approval_id"'): json.loads,
    ("docs/workflows.md", "workflow: book-trip"): read_workflow,
}
"""What reads a block of data, by its page and words of it."""


def named(block: Block, table: object) -> list[tuple[str, str]]:
    assert isinstance(table, dict)
    return [key for key in table if key[0] == block.page and key[1] in block.text]


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_every_block_has_one_test_or_one_reason(block: Block) -> None:
    assert block.language, f"{block}: say the language; `text` for what nobody types"
    if block.page == "docs/cli.md":
        return  # the help's own examples: the parser reads them all, below
    found = [key for table in (RUN, EXEMPT, READERS) for key in named(block, table)]
    assert len(found) == 1, (
        f"{block} is named by {found or 'nothing'}: run it (docs_plan.RUN), read it (READERS), or "
        f"say why not (docs_plan.EXEMPT):\n{block.text}"
    )


@pytest.mark.parametrize("key", [*RUN, *EXEMPT, *READERS], ids=str)
def test_no_entry_is_stale(key: tuple[str, str]) -> None:
    page, words = key
    found = [str(block) for block in BLOCKS if block.page == page and words in block.text]
    assert len(found) == 1, f"{words!r} is in the blocks {found} of {page}"


def test_every_exemption_has_a_reason() -> None:
    assert all(len(reason) > 20 for reason in EXEMPT.values())


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_the_command_line_understands_every_command(block: Block) -> None:
    for arguments in command_lines(block):
        check_command([FILLED.get(each, each) for each in arguments])


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_every_program_is_python_whose_imports_are_there(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text, str(block))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("celeriac"):
            name = node.module or ""
            if name == "celeriac.celery":  # needs servers; the tour of the README imports it
                continue
            module = importlib.import_module(name)
            missing = [each.name for each in node.names if not hasattr(module, each.name)]
            assert not missing, f"{block}: {name} has no {missing}"


@pytest.mark.parametrize("block", DATA, ids=str)
def test_the_product_reads_every_block_of_data(block: Block) -> None:
    [key] = named(block, READERS)
    READERS[key](block.text)
