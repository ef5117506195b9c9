"""Homes for servers of a test's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from celeriac.embedded.home import Home
from tests.support.places import temporary_directory


@pytest.fixture
def place() -> Iterator[Path]:
    """An empty directory that servers under another user can reach."""
    with temporary_directory() as directory:
        yield directory


@pytest.fixture
def home(place: Path) -> Home:
    """A fresh home."""
    return Home.open(place / "home")
