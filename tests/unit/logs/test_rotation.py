"""Files that are rotated while processes write to them lose and repeat no line."""

import gzip
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from celeriac.kit.json_types import loads
from tests.support.waiting import wait_until

pytestmark = pytest.mark.requirement("A16")

CONFIGURATION = Path(__file__).parents[3] / "deploy/logrotate/celeriac"
ROUNDS = 10
"""Fewer than logrotate keeps."""

_WRITER = """
import sys
from pathlib import Path
from celeriac import logs

directory, name = Path(sys.argv[1]), sys.argv[2]
logs.configure(logs.LogOptions(service=logs.Service.WORKER, directory=directory, console="off"))
log, number = logs.get_logger("t"), 0
while number % 10 or not (directory / "stop").exists():
    log.info("line", writer=name, number=number)
    number += 1
    if number % 10 == 0:
        logs.flush()  # a batch
print(number)
"""


def _renaming(directory: Path) -> Callable[[], None]:
    count = 0

    def rotate() -> None:
        nonlocal count
        count += 1
        path = directory / "celery-worker.log"
        if path.exists():
            path.rename(directory / f"celery-worker.log.{count}")

    return rotate


def _logrotate(directory: Path) -> Callable[[], None]:
    program = shutil.which("logrotate") or shutil.which("logrotate", path="/usr/sbin")
    if program is None:
        pytest.skip("there is no logrotate on this machine")
    text = CONFIGURATION.read_text(encoding="utf-8")
    text = re.sub(r"^ *su .*\n", "", text, flags=re.MULTILINE)  # the user of an installation
    text = text.replace("/var/lib/celeriac/logs", str(directory))
    assert text.count(str(directory)) == len(("api", "worker", "beat"))
    file = directory / "rotate.conf"
    file.write_text(text, encoding="utf-8")
    file.chmod(0o600)
    command = [program, "--force", "--state", str(directory / "state"), str(file)]
    return lambda: subprocess.run(command, check=True, timeout=60)  # type: ignore[return-value]


@pytest.mark.parametrize("tool", [_renaming, _logrotate], ids=["renaming", "logrotate"])
def test_no_line_is_lost_or_repeated_while_files_are_rotated(
    tmp_path: Path, tool: Callable[[Path], Callable[[], None]]
) -> None:
    tmp_path.chmod(0o700)  # logrotate refuses a directory that others may write to
    rotate = tool(tmp_path)
    path = tmp_path / "celery-worker.log"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(tmp_path), name], stdout=subprocess.PIPE
        )
        for name in ("a", "b")
    ]
    try:
        for _ in range(ROUNDS):
            wait_until(lambda: path.exists() and path.stat().st_size > 0, "a line is written")
            rotate()
    finally:
        (tmp_path / "stop").touch()
        counts = [int(each.communicate(timeout=60)[0]) for each in writers]
    found: Counter[tuple[str, int]] = Counter()
    for part in tmp_path.glob("celery-worker.log*"):
        content = gzip.decompress(part.read_bytes()) if part.suffix == ".gz" else part.read_bytes()
        for raw in content.splitlines():
            line = loads(raw)
            found[line["writer"], line["number"]] += 1
    wanted = {(name, n): 1 for name, count in zip("ab", counts, strict=True) for n in range(count)}
    assert found == wanted
