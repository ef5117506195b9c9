"""Temporary directories that a server under another user can live in."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def temporary_directory() -> Iterator[Path]:
    """Make a directory directly among the temporary files, and remove it at the end.

    Not pytest's `tmp_path`: each pytest that starts closes the directories above it again, and
    with that takes from a server that runs in it what `grant_search` gave.
    """
    with tempfile.TemporaryDirectory(prefix="celeriac-test-", ignore_cleanup_errors=True) as name:
        yield Path(name)
