"""Limits of all processes of a sandbox together: its memory, its disk space and its files."""

import asyncio
import errno
import os
import subprocess
import sys
import sysconfig
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from celeriac.agents.child import whole_limits
from celeriac.agents.child.errors import crash_of
from celeriac.agents.child.process import ChildCommand, ChildProcess
from celeriac.agents.child.protocol import ResultMessage
from celeriac.domain.errors import CeleriacError, DiskLimitError, MemoryLimitError
from celeriac.kit import processes
from celeriac.kit.processes import ProcessIdentity, identify, still_running
from celeriac.kit.sandbox import Sandbox
from celeriac.kit.users import OURSELVES, ChildUser
from tests.support.programs import REPOSITORY
from tests.support.sandboxes import sandbox_for

pytestmark = [pytest.mark.anyio, pytest.mark.requirement("F25")]

MEGABYTE = 1024 * 1024
NOBODY = 65534
DONE = """print('{"type": "result", "value": 1}', flush=True)"""
UNTIL_MEASURED = """
import os, time
while not os.path.exists("measured"):
    time.sleep(0.02)"""
WAIT = 'import signal; print(\'{"type": "progress", "done": 1}\', flush=True); signal.pause()'

SEEN_BY_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root sees what is only mapped")

MANY_SMALL = f"""
import os
for _ in range(12):
    if os.fork() == 0:
        kept = bytearray(os.urandom(12 << 20))
        break
{WAIT}"""

SHARED_PAGES = f"""
import os
kept = bytearray(os.urandom(40 << 20))
for _ in range(6):
    if os.fork() == 0:
        break
{UNTIL_MEASURED}
{DONE}"""

FILLED_TMP = f"""
for place in ("/tmp", "/dev/shm"):
    for number in range(7):
        open(f"{{place}}/{{number}}", "wb").write(os.urandom(6 << 20))
{WAIT}"""

UNNAMED = f"""
import os
kept = []
for number in range(15):
    kept.append(os.memfd_create("kept"))
    os.write(kept[-1], os.urandom(10 << 20))
{WAIT}"""

DELETED = f"""
import os
kept = []
for number in range(6):
    kept.append(open("deleted", "wb", buffering=0))
    kept[-1].write(os.urandom(10 << 20))
    os.unlink("deleted")
{WAIT}"""

CLOSED = """
import ctypes, os
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
for _ in range(15):
    file = OPEN
    os.write(file, os.urandom(10 << 20))
    assert libc.mmap(None, 4096, 1, 1, file, 0) not in (None, 2**64 - 1)
    os.close(file)
"""
"""Mapped but never read, and closed: only the mapping keeps the file."""

CLOSED_IN_MEMORY = CLOSED.replace("OPEN", "os.memfd_create('kept')") + WAIT
CLOSED_ON_DISK = (
    CLOSED.replace("OPEN", "os.open('x', os.O_RDWR | os.O_CREAT)").replace(
        "    os.close", "    os.unlink('x')\n    os.close"
    )
    + WAIT
)

SHARED_AND_FILES = f"""
import mmap, os
for number in range(6):
    open(f"/tmp/{{number}}", "wb").write(os.urandom(10 << 20))
kept = mmap.mmap(-1, 60 << 20)
kept.write(os.urandom(60 << 20))
{WAIT}"""

LISTED_ONLY = f"""
import os
os.mkdir(b"\\xff")
open(b"\\xff/f", "wb").close()
os.chmod(b"\\xff", 0o400)
{WAIT}"""


def files(count: int, size: int, place: str = ".") -> str:
    return f"""
import os
for number in range({count}):
    with open(f"{place}/f{{number}}", "wb") as file:
        file.write(os.urandom({size}))
{WAIT}"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for path in (tmp_path, tmp_path / "home", tmp_path / "home" / "work"):
        path.mkdir(exist_ok=True)
        path.chmod(0o755)
    return tmp_path / "home"


@pytest.fixture
def measured(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a file `measured` for the program after three measurements of memory and of files."""
    left = {"memory_of": 3, "disk_of": 3}

    def counting(name: str) -> Callable[..., Any]:
        measure = getattr(whole_limits, name)

        def count(*args: Any, **kwargs: Any) -> Any:
            result = measure(*args, **kwargs)
            left[name] -= 1
            if max(left.values()) <= 0:
                (home / "work" / "mine" / "measured").touch()
            return result

        return count

    for name in left:
        monkeypatch.setattr(whole_limits, name, counting(name))


async def run(home: Path, program: str, user: ChildUser, **limits: int) -> object:
    """Run a program to its end and return its result; it must end within a minute."""
    sandbox: Sandbox = sandbox_for(home, **limits)
    command = ChildCommand(
        arguments=(sys.executable, "-c", program),
        environment={"PATH": os.defpath},
        workdir=home / "work" / "mine",
        user=user,
        sandbox=sandbox,
    )
    started, result = [], None
    try:
        async with asyncio.timeout(60), ChildProcess.spawn(command) as child:
            started.append(identify(child.pid))
            while (message := await child.next_message()) is not None:
                if isinstance(message, ResultMessage):
                    result = message.value
            assert await child.wait(10)
            if result is None:  # as runners do
                raise crash_of(child.returncode or 0, (), memory_mb=1024)
    finally:
        assert [each for each in started if each is not None and still_running(each)] == []
    return result


def check_as_normal_user(place: str, limit: str) -> None:
    """Print the code of the error of an attempt that exceeds a limit; for another process."""
    home = Path(place)
    (home / "work").mkdir()
    programs = {"memory": UNNAMED, "disk": files(20, 2 << 20), "listed": LISTED_ONLY}
    try:
        asyncio.run(run(home, programs[limit], OURSELVES, memory_mb=100, disk_mb=25))
    except CeleriacError as error:
        print(error.message, error.code, sep="\n")  # noqa: T201 - the other process reads it


@pytest.mark.parametrize(
    "program",
    [
        MANY_SMALL,
        UNNAMED,
        pytest.param(CLOSED_IN_MEMORY, marks=SEEN_BY_ROOT),
        pytest.param(SHARED_AND_FILES, marks=SEEN_BY_ROOT),
    ],
    ids=["many processes", "files without a name", "closed files", "shared memory beside files"],
)
async def test_memory_of_all_processes_together_is_limited(
    home: Path, user: ChildUser, program: str
) -> None:
    with pytest.raises(MemoryLimitError, match="CELERIAC_CONFINEMENT_MEMORY_MB") as caught:
        await run(home, program, user, memory_mb=100, tmp_mb=80)
    assert caught.value.details["limit_bytes"] == 100 * MEGABYTE
    assert caught.value.details["used_bytes"] > 100 * MEGABYTE
    shown = "".join(traceback.format_exception(caught.value))
    assert "SIGKILL" not in shown, "the traceback names one reason"


async def test_what_is_in_memory_as_files_counts(home: Path, user: ChildUser) -> None:
    with pytest.raises(MemoryLimitError, match=r"with /tmp and /dev/shm"):
        await run(home, "import os" + FILLED_TMP, user, memory_mb=80, tmp_mb=60)


@pytest.mark.usefixtures("measured")
async def test_pages_that_processes_share_count_once(home: Path, user: ChildUser) -> None:
    """Seven processes see 40 MB, which are there once."""
    assert await run(home, SHARED_PAGES, user, memory_mb=150, disk_mb=20) == 1


@pytest.mark.parametrize(
    "program",
    [
        files(20, 2 << 20),
        files(1, 30 << 20),
        DELETED,
        pytest.param(CLOSED_ON_DISK, marks=SEEN_BY_ROOT),
    ],
    ids=["many", "one", "deleted", "closed"],
)
async def test_disk_space_of_all_files_together_is_limited(
    home: Path, user: ChildUser, program: str
) -> None:
    with pytest.raises(DiskLimitError, match="CELERIAC_CONFINEMENT_DISK_MB") as caught:
        await run(home, program, user, disk_mb=25, file_mb=64)
    assert caught.value.code == "disk_limit"
    assert caught.value.details["used_bytes"] > 25 * MEGABYTE


@pytest.mark.parametrize("place", [".", "/tmp", "/dev/shm"])
async def test_the_number_of_files_is_limited(home: Path, user: ChildUser, place: str) -> None:
    with pytest.raises(DiskLimitError, match="CELERIAC_CONFINEMENT_FILES"):
        await run(home, files(700, 1, place), user, files=500)
    if place == ".":
        assert (home / "work" / "mine" / "f699").exists(), "what was written is kept"


@pytest.mark.usefixtures("measured")
async def test_what_keeps_to_its_limits_ends_as_always(home: Path, user: ChildUser) -> None:
    """Also with hard links, which count once."""
    program = f"""
import os
open("f", "wb").write(os.urandom(8 << 20))
for number in range(50):
    os.link("f", f"g{{number}}")
{UNTIL_MEASURED}
{DONE}"""
    assert await run(home, program, user, memory_mb=200, disk_mb=20, files=100) == 1


async def test_files_that_cannot_be_measured_end_the_attempt(home: Path, user: ChildUser) -> None:
    """Directories are nested so deep that files could be hidden in them."""
    program = f"""
import os
for _ in range(400):
    os.mkdir("d"); os.chdir("d")
{WAIT}"""
    with pytest.raises(DiskLimitError, match="nested deeper than 256"):
        await run(home, program, user, disk_mb=20)


@pytest.mark.parametrize(
    ("name", "error"), [("memory_of", MemoryLimitError), ("disk_of", DiskLimitError)]
)
async def test_a_fault_of_a_measurement_ends_the_attempt(
    home: Path,
    user: ChildUser,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    error: type[CeleriacError],
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no such file")

    monkeypatch.setattr(whole_limits, name, fail)
    with pytest.raises(error, match="can't be measured: no such file"):
        await run(home, WAIT, user, memory_mb=200, disk_mb=20)


async def test_limits_hold_after_the_table_of_processes_could_not_be_read(
    home: Path, user: ChildUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while the worker has no descriptors left: the next measurement comes."""
    faults = [OSError(errno.EMFILE, "Too many open files") for _ in range(3)]
    read_table = processes.descendants_of

    def read(leaders: Iterable[ProcessIdentity]) -> dict[ProcessIdentity, list[int]]:
        if faults:
            raise faults.pop()
        return read_table(leaders)

    monkeypatch.setattr(whole_limits, "descendants_of", read)
    with pytest.raises(MemoryLimitError, match="CELERIAC_CONFINEMENT_MEMORY_MB"):
        await run(home, UNNAMED, user, memory_mb=100)
    assert faults == []


@pytest.fixture
def owned() -> Iterator[Path]:
    """A directory of another user, to which all of its parents are open."""
    with tempfile.TemporaryDirectory() as name:
        os.chown(name, NOBODY, NOBODY)
        yield Path(name)


@pytest.mark.skipif(os.geteuid() != 0, reason="the tests run as a normal user already")
@pytest.mark.parametrize("limit", ["memory", "disk", "listed"])
def test_a_worker_that_is_a_normal_user_measures_as_well(owned: Path, limit: str) -> None:
    python = "/usr/bin/python3"  # root's own may lie where nobody else may look
    prefix = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", python]
    asked = "import pydantic, sys; print(sys.version_info[:2])"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(owned),
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), sysconfig.get_path("purelib")]),
    }
    probe = subprocess.run(
        [*prefix, "-c", asked], capture_output=True, check=False, text=True, env=environment
    )
    if probe.stdout.strip() != str(sys.version_info[:2]):
        pytest.skip(f"a normal user has no Python with our packages: {probe.stderr[-200:]}")
    program = (
        f"from {__name__} import check_as_normal_user as check; check({str(owned)!r}, {limit!r})"
    )
    done = subprocess.run(
        [*prefix, "-c", program],
        capture_output=True, check=False, text=True, timeout=120, env=environment, cwd=owned,
    )  # fmt: skip
    code = "memory_limit" if limit == "memory" else "disk_limit"
    assert done.stdout.splitlines()[-1:] == [code], done.stdout + done.stderr
