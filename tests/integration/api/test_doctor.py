"""The checks of the installation over HTTP, with real servers."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from celeriac.domain.doctor import Code, Level
from celeriac.services.doctor.examine import Doctor
from celeriac.settings import Settings
from celeriac.wiring.doctor import build_checks
from tests.support.api import Asker

pytestmark = pytest.mark.requirement("D9", "E8")


@pytest.fixture
def mistaken(admin: Asker, settings: Settings) -> Iterator[Doctor]:
    """The doctor of an API whose Redis and broker are not there."""
    nowhere = {
        "redis_url": "redis://:hunter2@127.0.0.1:1/0",
        "celery_broker_url": "redis://:hunter2@127.0.0.1:1/1",
    }
    made = Doctor(build_checks(settings.model_copy(update=nowhere)))
    services = admin.client.app.state.services  # type: ignore[attr-defined]
    services.doctor.close()
    services.doctor = made
    yield made
    made.close()


def test_each_server_is_checked(admin: Asker) -> None:
    answer = admin.get("/api/v1/doctor").json()
    assert answer["ok"], answer
    found = {each["code"]: each for each in answer["findings"]}
    servers = {"database", "schema", "partitions", "clock", "redis", "broker"}
    assert servers | {"indexes", "long_transactions", "lost_workers"} <= set(found)
    assert {"vacuum", "transaction_ids", "keeper", "expiring_keys", "redis_keys"} <= set(found)
    assert "providers" not in found, "only who asks for it has requests sent elsewhere"
    asked = admin.get("/api/v1/doctor?providers=true").json()["findings"]
    (told,) = [each for each in asked if each["code"] == "providers"]
    assert told["message"] == "none is set up that is not on this machine"
    assert found["workers"] == {
        "code": "workers", "subject": "workers", "level": "warning", "message": "none is alive",
        "cure": "Start one: `celeriac worker`.",
    }  # fmt: skip


def test_a_check_that_fails_leaves_the_others_and_tells_no_secret(
    admin: Asker, mistaken: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(_: object) -> None:
        raise ZeroDivisionError("hunter2")

    monkeypatch.setattr("celeriac.services.doctor.checks.diagnosis.invalid_indexes", breaks)
    response = admin.get("/api/v1/doctor")
    assert response.status_code == 200
    assert "hunter2" not in response.text
    answer = response.json()
    assert not answer["ok"]
    failed = [each for each in answer["findings"] if each["level"] == Level.FAILED]
    assert [each["code"] for each in failed] == [Code.REDIS, Code.BROKER, Code.LOST_WORKERS]
    assert all(each["cure"] for each in failed)
    assert "ZeroDivisionError" in failed[-1]["message"]


def test_each_code_is_in_the_table_of_the_documentation() -> None:
    page = Path(__file__).resolve().parents[3] / "docs/operations.md"
    section = page.read_text(encoding="utf-8").split("\n## Doctor\n")[1].split("\n## ")[0]
    listed = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert sorted(listed) == sorted(Code)
