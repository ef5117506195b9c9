"""Folders: everything inside can be read, nothing outside, whatever lies in between."""

import os
import socket
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeriac.kit.files import Folder, remove_if_empty, remove_tree

SECRET = b"not for you"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A base with a secret beside an untrusted directory `inner`."""
    (tmp_path / "secret").write_bytes(SECRET)
    (tmp_path / "inner").mkdir()
    return tmp_path


def listed(folder: Folder) -> list[str]:
    found = folder.scan(most=1000).entries
    return [each.path for each in found if each.target is None and not each.is_directory]


def read(folder: Folder, path: str) -> bytes:
    return b"".join(folder.open(path).chunks())


def test_files_of_all_levels_are_listed_and_read(base: Path) -> None:
    inner = base / "inner"
    for path in ("b.txt", "a/one.txt", "a/b/two.txt", "a.txt", "ünï cøde"):
        (inner / path).parent.mkdir(parents=True, exist_ok=True)
        (inner / path).write_text(path)
    folder = Folder(base, "inner")
    found = folder.scan(most=10)
    paths = [entry.path for entry in found.entries]
    assert paths == ["a/b/two.txt", "a/one.txt", "a.txt", "b.txt", "ünï cøde"]
    assert found.skipped == 0
    for entry in found.entries:
        assert read(folder, entry.path) == entry.path.encode()
        assert entry.size == len(entry.path.encode())


def test_what_exceeds_the_limit_is_counted(base: Path) -> None:
    for name in "abcde":
        (base / "inner" / name).touch()
    found = Folder(base, "inner").scan(most=3)
    assert ([each.path for each in found.entries], found.skipped) == (["a", "b", "c"], 2)


@pytest.mark.parametrize(
    "path",
    ["../secret", "/etc/passwd", "a/../../secret", "", ".", "./a", "a//b", "a/", "/", "a\0b",
     "x" * 5000],
)  # fmt: skip
def test_paths_that_are_not_plain_are_refused(base: Path, path: str) -> None:
    with pytest.raises(ValueError, match="relative path"):
        Folder(base, "inner").open(path)


@given(st.text(alphabet="./\\ab \0\n", max_size=12))
def test_no_path_reads_what_lies_outside(path: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        inner = Path(place, "a", "b", "inner")
        inner.mkdir(parents=True)
        (inner / "a").mkdir()
        (inner / "b").write_bytes(b"inside")
        (inner / "a" / "b").write_bytes(b"inside")
        (inner / "a" / "a").symlink_to("../..")
        for outside in (inner.parent, inner.parent.parent):
            for name in (".a", "aa", "bb"):
                (outside / name).write_bytes(SECRET)
        (inner.parent / "a").write_bytes(SECRET)
        try:
            content = read(Folder(Path(place), "a", "b", "inner"), path)
        except (OSError, ValueError):
            return
        assert content == b"inside"


def test_links_are_never_followed_and_pipes_and_sockets_left_out(base: Path) -> None:
    inner = base / "inner"
    (inner / "file_link").symlink_to(base / "secret")
    (inner / "folder_link").symlink_to(base)
    (inner / "loop").symlink_to("loop")
    os.mkfifo(inner / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(inner / "socket"))
    (inner / "folder").mkdir()
    folder = Folder(base, "inner")
    found = folder.scan(most=10)
    kinds = {each.path: each.target or each.is_directory for each in found.entries}
    links = {"file_link": str(base / "secret"), "folder_link": str(base), "loop": "loop"}
    assert (kinds, found.skipped) == ({**links, "folder": True}, 2)
    for path in ("file_link", "folder_link/secret", "loop", "pipe", "socket", "folder", "none"):
        with pytest.raises(OSError):  # noqa: PT011 - the system's own word, whichever it is
            folder.open(path)


def test_the_directory_itself_may_not_be_a_link(base: Path) -> None:
    (base / "sly").symlink_to(base)
    with pytest.raises(OSError):  # noqa: PT011
        Folder(base, "sly").scan(most=1)
    assert not Folder(base, "sly").exists()
    assert Folder(base, "inner").exists()


def test_a_folder_that_becomes_a_link_while_it_is_read_leads_nowhere(base: Path) -> None:
    """One swaps a directory for a link to outside and back, as fast as it goes."""
    inner = base / "inner"
    outside = base / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(SECRET)
    (inner / "real").mkdir()
    (inner / "real" / "file").write_bytes(b"fine")
    (inner / "link").symlink_to(outside)
    (inner / "real").rename(inner / "now")
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            (inner / "now").rename(inner / "real")
            (inner / "link").rename(inner / "now")
            (inner / "now").rename(inner / "link")
            (inner / "real").rename(inner / "now")

    swapping = threading.Thread(target=swap)
    swapping.start()
    folder = Folder(base, "inner")
    contents = set()
    try:
        for _ in range(3000):
            try:
                contents.add(read(folder, "now/file"))
            except OSError:
                contents.add(b"refused")
            assert "outside" not in "".join(listed(folder))
    finally:
        done.set()
        swapping.join()
    assert SECRET not in contents
    assert b"fine" in contents


def test_what_can_not_be_opened_is_not_taken_for_empty(base: Path) -> None:
    assert Folder(base, "inner").is_empty()
    assert Folder(base, "missing").is_empty()
    (base / "link").symlink_to("inner")
    assert not Folder(base, "link").is_empty()


def test_a_file_that_grows_is_read_as_it_was(base: Path) -> None:
    (base / "inner" / "log").write_bytes(b"1234")
    opened = Folder(base, "inner").open("log")
    with (base / "inner" / "log").open("ab") as more:
        more.write(b"5678")
    assert (opened.size, b"".join(opened.chunks())) == (4, b"1234")


def test_names_that_are_no_text_and_what_is_too_deep_are_passed_over(base: Path) -> None:
    (base / "inner" / os.fsdecode(b"\xff")).touch()
    deep = base / "inner"
    for _ in range(40):
        deep /= "d"
        deep.mkdir()
    found = Folder(base, "inner").scan(most=10)
    assert (found.entries, found.skipped) == ([], 2)


def test_of_a_huge_directory_the_first_are_shown(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celeriac.kit.files._MOST_IN_ONE", 3)
    for number in range(10):
        (base / "inner" / str(number)).touch()
    found = Folder(base, "inner").scan(most=100)
    assert (len(found.entries), found.skipped) == (3, 7)


def test_removal_takes_everything_and_follows_nothing(base: Path) -> None:
    inner = base / "inner"
    (inner / "link").symlink_to(base)
    closed = inner / "closed" / "deeper"
    closed.mkdir(parents=True)
    (closed / "file").touch()
    closed.chmod(0)
    closed.parent.chmod(0o500)
    assert not remove_if_empty(inner)
    assert remove_tree(inner)
    assert not inner.exists()
    assert (base / "secret").read_bytes() == SECRET
    (base / "sly").symlink_to(base)
    assert remove_tree(base / "sly")
    assert (base / "secret").exists()
    assert remove_tree(base / "none")
    os.mkfifo(base / "pipe")
    assert remove_tree(base / "pipe")
    assert not (base / "pipe").exists()
    (base / "empty").mkdir()
    assert remove_if_empty(base / "empty")
    assert remove_if_empty(base / "empty")


def test_directories_of_any_depth_are_removed(base: Path) -> None:
    """An agent made one that a recursion could not remove: retention ended at it, for everybody."""
    inner = base / "inner"
    depth = sys.getrecursionlimit() + 100
    place = os.open(inner, os.O_RDONLY)
    for number in range(depth):
        os.mkdir("d", dir_fd=place)
        os.symlink(base, "link", dir_fd=place)
        if number % 100 == 0:
            os.mkdir("other", 0o100, dir_fd=place)
        below = os.open("d", os.O_RDONLY, dir_fd=place)
        os.fchmod(place, 0o500)
        os.close(place)
        place = below
    os.close(place)

    assert remove_tree(inner)

    assert not inner.exists()
    assert (base / "secret").read_bytes() == SECRET


@pytest.mark.parametrize("seconds", [2**40, -(2**40)])
def test_times_that_no_calendar_has_are_passed_over(seconds: int) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:  # other file systems keep fewer bits
        path = Path(name, "file")
        path.touch()
        os.utime(path, (seconds, seconds))
        folder = Folder(Path(name))

        assert folder.scan(most=1).entries[0].modified_at.year in {1, 9999}
        opened = folder.open("file")
        opened.file.close()
        assert opened.modified_at.year in {1, 9999}
