"""Running programs as a normal user, also where the tests run as root."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

_NOBODY = 65534
# Root's Python may lie where nobody else may look. Reading it is all that this allows.
_READING = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")


@dataclass(frozen=True)
class NormalUser:
    """A user without root's rights; `prefix` runs a command as that user."""

    uid: int
    prefix: Sequence[str]

    def own_directory(self, parent: Path) -> Path:
        """Make a directory of the user's own in `parent`, a temporary directory."""
        directory = parent / "owned"
        directory.mkdir(mode=0o700)
        if self.uid != os.geteuid():
            os.chown(directory, self.uid, self.uid)
            parent.chmod(parent.stat().st_mode | 0o011)
        return directory


def normal_user() -> NormalUser:
    """Return the user that runs the tests or, for root, the system's `nobody`."""
    if os.geteuid() != 0:
        return NormalUser(os.geteuid(), ())
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("root needs setpriv (util-linux) to become another user")
    plain = (setpriv, f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups")
    for prefix in (plain, (*plain, *_READING)):
        probe = [*prefix, sys.executable, "-c", "import sys; print(sys.version)"]
        answer = subprocess.run(probe, capture_output=True, check=False, text=True)
        if answer.stdout.strip() == sys.version.strip():  # ours, not another that it found
            return NormalUser(_NOBODY, prefix)
    pytest.skip("another user can't run this Python here")
