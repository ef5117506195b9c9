"""Working directories that change while they are saved, or are in use while they are restored."""

import os
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from celeriac.db import artifacts
from celeriac.domain.errors import ObjectStoreError
from celeriac.kit.files import Folder, OpenFile
from celeriac.services.files.working import WorkingFiles
from tests.support.core import Core
from tests.support.objects import BOUNDS, Machine, written


def test_content_of_the_same_size_and_time_is_saved(
    core: Core, one: Machine, other: Machine
) -> None:
    """As programs write it that unpack archives or set the times of what they build."""
    claim = core.running()
    written(one.directory(claim), a="version 1", b="kept")
    before = (one.directory(claim) / "a").stat()
    one.save(claim)
    there = other.restore(claim)
    for machine, content in ((other, "version 2"), (other, "version 3")):
        machine.settle(claim)
        machine.save(claim)
        (there / "a").write_text(content)
        os.utime(there / "a", ns=(before.st_atime_ns, before.st_mtime_ns))
        machine.save(claim)
        assert (one.restore(claim) / "a").read_text() == content


def test_a_path_that_no_index_holds_does_not_keep_the_others_from_being_saved(
    core: Core, one: Machine, other: Machine
) -> None:
    claim = core.running()
    directory = one.directory(claim)
    written(directory, a="1")
    letters = "".join(chr(0x4E00 + number) for number in range(80))
    names = [letters[turn:] + letters[:turn] for turn in range(12)]
    for number in (7, 12):
        deep = directory.joinpath(*names[:number])
        deep.mkdir(parents=True)
        (deep / "file").write_text("deep")
    one.save(claim)
    there = other.restore(claim)
    assert (there / "a").read_text() == "1"
    assert (there.joinpath(*names[:7]) / "file").read_text() == "deep"
    assert not there.joinpath(*names[:8]).exists()
    with core.database.autocommit() as connection:
        found = artifacts.file_set(connection, claim.lease.execution_id)
    assert found is not None
    assert found.skipped == 1


@pytest.mark.parametrize("opened_before", [0, 1])
def test_a_file_that_grows_while_it_is_saved_is_not_read_past_the_bounds(
    core: Core, one: Machine, other: Machine, monkeypatch: pytest.MonkeyPatch, opened_before: int
) -> None:
    """A process of the agent may still run; 1 TB would be read, or joined in memory."""
    claim = core.running()
    written(one.directory(claim), a="1", b="2")
    opened: list[str] = []
    original = Folder.open

    def grown(self: Folder, path: str) -> OpenFile:
        if path == "a":
            opened.append(path)
            if len(opened) > opened_before:
                os.truncate(one.directory(claim) / path, 1 << 40)
        return original(self, path)

    monkeypatch.setattr(Folder, "open", grown)
    one.save(claim)
    assert [each.name for each in other.restore(claim).iterdir()] == ["b"]


@pytest.mark.parametrize("copied", [False, True])
def test_a_late_worker_replaces_no_directory_that_a_later_attempt_works_in(
    core: Core, one: Machine, other: Machine, monkeypatch: pytest.MonkeyPatch, *, copied: bool
) -> None:
    """Two workers of one machine: the first was frozen while it restored, and lost the attempt."""
    claim = core.running()
    written(one.directory(claim), a="1")
    one.save(claim)
    owner = uuid4() if copied else claim.lease.execution_id
    source = claim.lease.execution_id if copied else None
    there = other.directory(claim)
    late = WorkingFiles(core.database, other.files._objects, other.files._markers, BOUNDS)
    original = WorkingFiles._write_tree

    def frozen(self: WorkingFiles, *arguments: Any) -> None:
        original(self, *arguments)
        if self is late:
            other.files.restore(owner, there, copy_of=source)
            written(there, work="of the later attempt")

    monkeypatch.setattr(WorkingFiles, "_write_tree", frozen)

    late.restore(owner, there, copy_of=source)

    assert sorted(each.name for each in there.iterdir()) == ["a", "work"]
    assert [each for each in other.files._markers.iterdir() if each.is_dir()] == []


@pytest.mark.parametrize("before", ["closed", "link", "file"])
def test_whatever_is_in_the_place_of_the_directory_is_replaced(
    core: Core, one: Machine, other: Machine, tmp_path: Path, before: str
) -> None:
    claim = core.running()
    written(one.directory(claim), a="1")
    one.save(claim)
    outside, there = tmp_path / "outside", other.directory(claim)
    written(outside, kept="1")
    match before:
        case "closed":
            written(there, b="2")
            there.chmod(0)
        case "link":
            there.symlink_to(outside)
        case "file":
            there.write_text("2")
    restored = other.restore(claim)
    assert not restored.is_symlink()
    assert [each.name for each in restored.iterdir()] == ["a"]
    assert [each.name for each in outside.iterdir()] == ["kept"]
    assert [each.name for each in other.files._markers.iterdir()] == [str(claim.lease.execution_id)]


def test_a_machine_that_can_t_write_the_files_says_so(
    core: Core, one: Machine, other: Machine, tmp_path: Path
) -> None:
    claim = core.running()
    written(one.directory(claim), a="1")
    one.save(claim)
    (tmp_path / "other" / "saved").write_text("no directory")
    with pytest.raises(ObjectStoreError, match="can't be restored on this machine: "):
        other.restore(claim)
