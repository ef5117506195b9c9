"""Find the servers' files inside installed packages, without importing those packages."""

import importlib.util
from pathlib import Path

from celeriac.embedded.errors import ServerNotInstalledError


def find_in_package(package: str, pattern: str, *, cure: str) -> Path:
    """Return the first file of an installed package that matches a glob pattern.

    Raises ServerNotInstalledError, naming `cure` as the command that helps.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ServerNotInstalledError(f"The package {package} isn't installed. Run: {cure}")
    for path in sorted(Path(spec.origin).parent.glob(pattern)):
        return path
    raise ServerNotInstalledError(
        f"The package {package} is damaged: it has no file {pattern}. Run: {cure}"
    )
