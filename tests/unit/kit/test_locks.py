"""Locks of files and directories between processes."""

import os
import signal
from pathlib import Path

from celeriac.kit.locks import lock, locked_alone, unlock


def test_a_lock_that_is_held_alone_is_given_to_nobody(tmp_path: Path) -> None:
    with locked_alone(tmp_path) as held:
        assert held is not None
        assert lock(tmp_path) is None
        assert lock(tmp_path, shared=True) is None
        with locked_alone(tmp_path) as second:
            assert second is None
    shared = [lock(tmp_path, shared=True) for _ in range(2)]
    assert None not in shared
    assert lock(tmp_path) is None
    for each in shared:
        assert each is not None
        unlock(each)
    with locked_alone(tmp_path / "new", os.O_RDWR | os.O_CREAT) as made:
        assert made is not None
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600


def test_a_child_that_was_forked_meanwhile_keeps_no_lock(tmp_path: Path) -> None:
    with locked_alone(tmp_path) as held:
        assert held is not None
        child = os.fork()
        if not child:
            signal.pause()
            os._exit(0)
    try:
        with locked_alone(tmp_path) as again:
            assert again is not None
    finally:
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)
