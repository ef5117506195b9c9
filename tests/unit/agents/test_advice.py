"""What is said of agents when they are made."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from celeriac.agents.advice import Advice
from celeriac.agents.models import Providers
from celeriac.domain.agents import AgentSpec, ClaudeAgent, CommandAgent, LlmAgent, PythonAgent
from celeriac.domain.confinement import AgentConfinement

SHOP = (
    "import json as text\nfrom pathlib import Path\n\n\nasync def score(): ...\n\n\nnap = score\n"
)


@pytest.fixture
def advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Advice]:
    """Advice in a directory with a module and a package."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "advised_shop.py").write_text(SHOP)
    (tmp_path / "advised_loud.py").write_text("raise SystemExit\ndef run(): ...\n")
    (tmp_path / "advised_star.py").write_text("from advised_shop import *\n")
    package = tmp_path / "advised_package"
    package.mkdir()
    (package / "__init__.py").write_text("from advised_package.agents import score\n")
    (package / "agents.py").write_text(SHOP)
    program = tmp_path / "count"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    yield Advice(
        providers=Providers.configured(
            openai_base_url="https://api.openai.com/v1",
            openai_api_key=None,
            local_model_url=None,
            others={"vllm": ("http://127.0.0.1:1/v1", "none")},
        ),
        commands={"count": [str(program)], "gone": ["/no/such/program"], "shell": ["sh", "-c"]},
        modules=[
            "advised_shop",
            "advised_package",
            "advised_loud",
            "advised_star",
            "advised_none",
            "json",
        ],
        search_path="/usr/bin:/bin",
    )
    assert not [name for name in sys.modules if name.startswith("advised_")], "nothing is imported"


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (LlmAgent(model="vllm/qwen/3"), None),
        (LlmAgent(model="gtp/5"), "names the provider 'gtp', which isn't configured"),
        (LlmAgent(model="openai/gpt-5"), "OPENAI_API_KEY is not set"),
        (LlmAgent(model="local/smollm2"), "there is no local model server"),
        (
            CommandAgent(command="count", confinement=AgentConfinement(network=("a.test",))),
            "'a.test', which this worker does not allow agents",
        ),
        (PythonAgent(function="advised_shop:score"), None),
        (PythonAgent(function="advised_shop:nap"), None),
        (PythonAgent(function="advised_shop:text"), None),
        (PythonAgent(function="advised_loud:run"), None),
        (PythonAgent(function="advised_star:anything"), None),
        (PythonAgent(function="advised_package:score"), None),
        (PythonAgent(function="advised_package.agents:score"), None),
        (PythonAgent(function="json:loads"), None),
        (PythonAgent(function="advised_shop:nothing"), "advised_shop has no 'nothing'"),
        (PythonAgent(function="advised_package.agents:x"), "advised_package.agents has no 'x'"),
        (PythonAgent(function="advised_none:x"), "There is no module advised_none here"),
        (PythonAgent(function="advised_package.none:x"), "no module advised_package.none here"),
        (PythonAgent(function="shop:x"), "shop is not among the modules that agents may use"),
        (CommandAgent(command="count"), None),
        (CommandAgent(command="shell"), None),
        (CommandAgent(command="gone"), "/no/such/program, can't be run here"),
        (CommandAgent(command="nope"), "no command 'nope' here; CELERIAC_COMMANDS has: count, g"),
        (ClaudeAgent(), None),
    ],
)
def test_what_would_fail_here_is_said(advice: Advice, spec: AgentSpec, said: str | None) -> None:
    found = advice.warnings(spec)
    if said is None:
        assert found == []
    else:
        assert len(found) == 1
        assert said in found[0]
