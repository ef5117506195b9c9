"""The hot path has the files that `docs/architecture.md` lists, in that order, and no others."""

import re
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest
from fastapi.testclient import TestClient

from celeriac.api.app import create_app
from celeriac.domain.executions.events import EventType
from celeriac.kit.json_types import JsonValue
from celeriac.kit.loop import LoopThread
from celeriac.services.ports import Job, RunContext
from celeriac.wiring.core import CoreServices
from tests.support.api import AGENT, EXECUTE, TASK, Asker
from tests.support.core import Core
from tests.support.executing import Worker

ROOT = Path(__file__).parents[2]
PACKAGE = f"{ROOT / 'celeriac'}/"
FLOORS = ("adapters/", "api/", "db/", "services/")
"""What has decisions of the path. Below are rules and helpers, which are called with values."""

BROKER = "adapters/celery_queue.py"
MOST = 18
TRIES = 10


class Recorder:
    """Notes the files of the product whose functions are called, in threads started after it."""

    def __init__(self) -> None:
        self._files: dict[str, None] = {}
        self._on = False

    def profile(self, frame: FrameType, event: str, _argument: object) -> None:
        name = frame.f_code.co_filename
        if self._on and event == "call" and name.startswith(PACKAGE):
            self._files.setdefault(name.removeprefix(PACKAGE))

    @contextmanager
    def recording(self) -> Iterator[list[str]]:
        found: list[str] = []
        self._files.clear()
        self._on = True
        try:
            yield found
        finally:
            self._on = False
            found += [name for name in self._files if name.startswith(FLOORS)]


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    threading.setprofile(recorder.profile)
    sys.setprofile(recorder.profile)
    yield recorder
    sys.setprofile(None)
    threading.setprofile(None)


def listed(heading: str) -> Sequence[str]:
    """Return the files of a numbered list of the architecture page."""
    page = (ROOT / "docs/architecture.md").read_text()
    section = page.split(f"### {heading}\n", 1)[1].split("\n#", 1)[0]
    return re.findall(r"^\d+\. `([\w/]+\.py)`", section, re.MULTILINE)


def test_from_http_to_the_broker(recorder: Recorder, container: CoreServices) -> None:
    with TestClient(create_app(container)) as client:
        admin = client.app.state.services.accounts.bootstrap_admin()  # type: ignore[attr-defined]
        asker = Asker(client, admin.token)
        asker.post("/api/v1/agents", json=AGENT)
        asker.post("/api/v1/tasks", json=TASK)
        one = {"variables": {"text": "One."}}
        path, expected = [BROKER], listed("From HTTP to the broker")
        for _ in range(TRIES):  # caches are good for seconds, which a busy machine may need
            with recorder.recording() as files:
                assert asker.post(EXECUTE, json=one).status_code == 202
            path = files[: files.index(BROKER) + 1]
            if path == expected:
                break
    assert path == expected
    assert len(path) <= MOST


async def say(_job: Job, context: RunContext) -> JsonValue:
    await context.emit(EventType.CUSTOM, {"name": "a"})
    return "done"


def test_from_the_message_to_the_finish(
    recorder: Recorder, container: CoreServices, tmp_path: Path
) -> None:
    core, loop = Core(container.database), LoopThread()
    worker = Worker(core, tmp_path, loop, say)
    worker.run(core.queued())
    message = core.message(core.queued())
    with recorder.recording() as files:
        worker.execute(message)
    loop.close()
    path = listed("From the message to the finish")
    assert [each for each in path if not each.startswith("worker/")] == files
    assert len(path) <= MOST
