"""Logs are followed line by line, and stay bounded."""

from pathlib import Path

from celeriac.embedded.output import LogFollower, open_for_appending, read_last_lines


def test_only_what_comes_later_is_read_and_only_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    path.write_text("before\n")
    follower = LogFollower(path)
    with open_for_appending(path) as log:
        log.write(b"one\r\ntw")
        assert follower.read_lines() == ["one"]
        log.write(b"o\n\xff\n")
        assert follower.read_lines() == ["two", "�"], "odd bytes are shown, not fatal"
    assert not follower.read_lines()


def test_an_overgrown_log_is_put_aside_and_its_writer_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    follower = LogFollower(path, most_bytes=10)
    with open_for_appending(path) as log:
        log.write(b"a line of old\n")
        assert follower.read_lines() == ["a line of old"]
        assert not follower.read_lines()
        log.write(b"new\n")
        assert follower.read_lines() == ["new"]
    assert path.read_text() == "new\n"
    assert path.with_name("x.log.1").read_text() == "a line of old\n"


def test_last_words_are_of_this_start_and_few(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    assert not read_last_lines(path, 3), "a log that isn't there has no lines"
    path.write_text("earlier run\n")
    since = path.stat().st_size
    with open_for_appending(path) as log:
        log.write(b"one\n\ntwo\nthree\nfour\n")
    assert list(read_last_lines(path, 3, since=since)) == ["two", "three", "four"]
    assert list(read_last_lines(path, 9, since=since)) == ["one", "two", "three", "four"]
    assert "earlier run" in read_last_lines(path, 9, since=10_000), "it was put aside"
