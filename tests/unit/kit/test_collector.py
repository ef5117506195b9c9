"""The garbage collector rests while a program is imported, and only then."""

import gc

import pytest

from celeriac.kit.collector import paused


def test_it_rests_during_the_block_and_after_an_error_works_again() -> None:
    def fail() -> None:
        with paused():
            assert not gc.isenabled()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert gc.isenabled()


def test_it_stays_off_where_it_was_off() -> None:
    gc.disable()
    try:
        with paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
