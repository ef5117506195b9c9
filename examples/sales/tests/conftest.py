"""A database of its own for each test, made by the migrations."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config

from sales.models import engine

HERE = Path(__file__).parent


@pytest.fixture
def alembic() -> Config:
    """Return the configuration of the migrations."""
    return Config(HERE.parent / "alembic.ini")


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alembic: Config) -> Iterator[None]:
    """Migrate a new database, and let the package use it."""
    monkeypatch.setenv("SALES_DATABASE_URL", f"sqlite:///{tmp_path / 'sales.db'}")
    engine.cache_clear()
    command.upgrade(alembic, "head")
    yield
    engine().dispose()
    engine.cache_clear()
