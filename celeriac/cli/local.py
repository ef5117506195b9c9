"""What commands use that work on this machine's own settings, not through the API."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celeriac.db.engine import Database
    from celeriac.settings import Settings


def read_settings(home: Path | None) -> "Settings":
    """Return the settings of programs in this home; a CLI's own log lines stay quiet.

    Raises ConfigurationError, HomeUnusableError.
    """
    from celeriac.logs import LogOptions, Service, configure
    from celeriac.wiring.core import load_settings

    configure(LogOptions(service=Service.CLI, level="WARNING"))
    return load_settings(home)


def log_directory(home: Path | None) -> Path:
    """Return where programs in this home write their log files. Raises ConfigurationError."""
    from celeriac.settings import Settings

    return Settings.load(**({"home": home} if home else {})).logs


@contextmanager
def open_database(settings: "Settings") -> "Iterator[Database]":
    """Yield a connection pool of one. Raises ConfigurationError."""
    from celeriac.db.engine import Database

    database = Database(settings.require_database(), connections=1, application="celeriac-cli")
    try:
        yield database
    finally:
        database.close()
