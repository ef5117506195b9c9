"""Whether the files of users' modules have changed since they were imported."""

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from celeriac.agents.python.functions import LoadedModules, find_function
from celeriac.domain.errors import AgentMisconfiguredError

ONE = "async def one():\n    return 1\n"


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory of modules whose names begin with `edited_`."""
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("edited_")]:
        del sys.modules[name]


def test_a_changed_file_is_named(directory: Path) -> None:
    loaded = LoadedModules()
    loaded.note()
    file = directory / "edited_shop.py"
    file.write_text(ONE)
    importlib.import_module("edited_shop")
    loaded.note()
    assert (loaded.changed(), loaded.is_stale("edited_shop")) == ([], False)
    file.write_text(ONE + "\n")
    loaded.note()
    assert (loaded.changed(), loaded.is_stale("edited_shop")) == ([file], True)


def test_a_file_that_is_being_replaced_has_not_changed_yet(directory: Path) -> None:
    file = directory / "edited_shop.py"
    file.write_text(ONE)
    loaded = LoadedModules()
    importlib.import_module("edited_shop")
    loaded.note()
    saved = file.rename(directory / "saved")
    assert loaded.changed() == []
    saved.rename(file)
    assert loaded.changed() == []
    os.utime(file, ns=(1, 1))
    assert loaded.changed() == [file], "an older one is another one"


def test_files_within_packages_are_seen(directory: Path) -> None:
    package = directory / "edited_package"
    package.mkdir()
    for name, text in (("__init__", ""), ("agents", "from edited_package import parts\n"),
                       ("parts", ONE)):  # fmt: skip
        (package / f"{name}.py").write_text(text)
    loaded = LoadedModules()
    importlib.import_module("edited_package.agents")
    loaded.note()
    (package / "parts.py").write_text("")
    assert loaded.changed() == [package / "parts.py"]


@pytest.mark.parametrize("name", ["json", "pydantic", "celeriac.cli.main", "no_such_module"])
def test_only_modules_of_users_are_looked_at(name: str) -> None:
    if name != "no_such_module":
        importlib.import_module(name)
    loaded = LoadedModules()
    loaded.note()
    watched = {str(file) for file in loaded._stamps}
    assert getattr(sys.modules.get(name), "__file__", None) not in watched
    assert __file__ in watched
    assert not loaded.is_stale(name)


def test_a_function_that_was_added_since_says_to_restart(directory: Path) -> None:
    file = directory / "edited_late.py"
    file.write_text(ONE)
    find_function("edited_late:one", ("edited_late",))
    with pytest.raises(AgentMisconfiguredError) as caught:
        find_function("edited_late:two", ("edited_late",))
    assert "restart" not in caught.value.message
    file.write_text(ONE + "async def two():\n    return 2\n")
    with pytest.raises(AgentMisconfiguredError, match="restart the worker") as caught:
        find_function("edited_late:two", ("edited_late",))
    assert str(file) in caught.value.message


def test_a_module_that_was_made_since_is_found(directory: Path) -> None:
    with pytest.raises(AgentMisconfiguredError, match="finds no module"):
        find_function("edited_new:one", ("edited_new",))
    before = directory.stat()
    (directory / "edited_new.py").write_text(ONE)
    os.utime(directory, ns=(before.st_atime_ns, before.st_mtime_ns))  # within one tick of its clock
    assert find_function("edited_new:one", ("edited_new",)).is_coroutine
