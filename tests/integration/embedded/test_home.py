"""The home: private, one stack at a time, honest about what is wrong with it."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from celeriac.embedded.errors import AlreadyRunningError, HomeUnusableError
from celeriac.embedded.home import Home, RuntimeDirectory, find_holder, holding_lock
from celeriac.embedded.process import Child, ChildRecord
from celeriac.kit.processes import identify, launch
from tests.support.users import normal_user


def test_secrets_stay_and_are_for_the_owner_alone(home: Home) -> None:
    first = home.secret("example")
    assert home.secret("example") == first
    assert home.secret("other") != first
    assert (home.secrets / "example").stat().st_mode & 0o777 == 0o600
    assert home.root.stat().st_mode & 0o077 == 0


def test_two_first_readers_of_a_secret_agree(home: Home) -> None:
    seen: list[str] = []
    start = threading.Barrier(8)

    def read() -> None:
        start.wait()
        seen.append(home.secret("raced"))

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 8
    assert len(set(seen)) == 1


def test_a_home_open_to_others_is_closed(place: Path) -> None:
    root = place / "open"
    root.mkdir()
    root.chmod(0o777)
    Home.open(root)
    assert root.stat().st_mode & 0o077 == 0


def test_a_file_in_the_place_of_the_home_is_named(place: Path) -> None:
    path = place / "file"
    path.touch()
    with pytest.raises(HomeUnusableError, match=r"file: there is a file where a directory"):
        Home.open(path)


def test_a_read_only_place_is_named_with_the_cure(place: Path) -> None:
    user = normal_user()
    locked = user.own_directory(place)
    locked.chmod(0o500)
    program = (
        "import sys; from pathlib import Path; from celeriac.embedded.home import Home; "
        "Home.open(Path(sys.argv[1]))"
    )
    answer = subprocess.run(
        [*user.prefix, sys.executable, "-c", program, str(locked / "home")],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"HomeUnusableError: {locked / 'home'}: Permission denied" in answer.stderr
    assert "CELERIAC_HOME" in answer.stderr


def test_the_lock_has_one_holder_who_can_be_found(home: Home) -> None:
    assert find_holder(home) is None
    with holding_lock(home):
        assert find_holder(home) == identify(os.getpid())
        with pytest.raises(AlreadyRunningError, match=f"process {os.getpid()}") as caught:
            holding_lock(home).__enter__()
        assert caught.value.pid == os.getpid()
        assert str(home.root) in caught.value.message
    assert find_holder(home) is None
    with holding_lock(home):
        pass


def test_a_lock_file_of_a_killed_holder_keeps_nobody_out(home: Home) -> None:
    home.lock_file.write_text('{"pid": 1, "started": 12345}')
    assert find_holder(home) is None, "process 1 is another one than that"
    with holding_lock(home):
        assert find_holder(home) == identify(os.getpid())


def test_leftovers_are_ended_and_strangers_with_their_pids_are_not(home: Home) -> None:
    left = launch(["sleep", "600"])
    stranger = launch(["sleep", "600"])
    record = ChildRecord(home)
    for name, process, shift in (("left", left, 0), ("stranger", stranger, 1)):
        identity = identify(process.pid)
        assert identity is not None
        record.add(Child(name, process.pid, identity.started + shift, stop_signal=15))
    try:
        ended = ChildRecord(home).end_leftovers(grace_seconds=10)
        assert [child.name for child in ended] == ["left"]
        assert left.wait(10) == -15
        assert stranger.poll() is None, "its pid was recorded with another start time"
        assert not ChildRecord(home).end_leftovers(grace_seconds=0)
    finally:
        for process in (left, stranger):
            process.kill()
            process.wait()


def test_a_record_that_cannot_be_written_keeps_nothing_from_running(home: Home) -> None:
    """As on a full disk; what is written later names those that could not be written."""
    record = ChildRecord(home)
    (home.root / "children.json").mkdir()
    record.add(Child("first", 1, 1, stop_signal=15))
    (home.root / "children.json").rmdir()
    record.add(Child("second", 2, 2, stop_signal=15))
    stored = (home.root / "children.json").read_text()
    assert "first" in stored
    assert "second" in stored


@pytest.mark.parametrize("text", ["", "{", "[]", '{"boot": "other", "children": [{}]}'])
def test_a_damaged_record_of_children_counts_as_empty(home: Home, text: str) -> None:
    (home.root / "children.json").write_text(text)
    assert not ChildRecord(home).end_leftovers(grace_seconds=0)


def test_sockets_of_a_long_home_get_a_private_place_that_is_checked_each_time(place: Path) -> None:
    home = Home.open(place.joinpath(*["long" * 20] * 3))
    runtime = RuntimeDirectory(home, None)
    directory = runtime.prepare()
    assert len(str(directory)) < 60
    assert directory.stat().st_mode & 0o777 == 0o700
    assert runtime.prepare() == directory, "it is remembered"

    directory.rmdir()
    directory.symlink_to(place)  # what somebody else might put in its place
    replacement = runtime.prepare()
    assert replacement not in (directory, place)
    assert not replacement.is_symlink()

    replacement.chmod(0o777)
    third = runtime.prepare()
    assert third != replacement, "anybody could have put anything there"
    runtime.remove()
    assert not third.exists()
    directory.unlink()
    replacement.rmdir()
