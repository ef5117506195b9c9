"""The log of an execution over HTTP: pages, live, and what is said where it is missing."""

import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import text

from celeriac.client import Client, ClientError
from celeriac.domain.executions.model import Completed
from celeriac.kit.json_types import dumps
from celeriac.wire import LogLine
from celeriac.wiring.core import CoreServices
from tests.support.api import Asker
from tests.support.waiting import wait_until
from tests.support.working import claim, finish

pytestmark = pytest.mark.requirement("A18")


def _line(execution_id: UUID, event: str, level: str = "info", service: str = "worker") -> str:
    at = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    values = {
        "timestamp": at, "level": level, "service": service, "event": event,
        "execution_id": str(execution_id), "attempt": 1,
    }  # fmt: skip
    return dumps(values) + "\n"


def _file(container: CoreServices, execution_id: UUID) -> Path:
    directory = container.settings.logs
    directory.mkdir(parents=True, exist_ok=True)
    return directory / f"task-execution-{execution_id}.log"


def _on_host(container: CoreServices, execution_id: UUID, host: str) -> None:
    with container.database.autocommit() as connection:
        connection.execute(
            text("UPDATE executions SET worker_hostname = :name WHERE id = :id"),
            {"name": f"celery@{host}/7", "id": execution_id},
        )


def _code(client: Client, execution_id: UUID) -> tuple[str, str]:
    with pytest.raises(ClientError) as refused:
        client.executions.logs(execution_id)
    return refused.value.code, refused.value.message


def test_pages_levels_and_the_lines_as_they_are(
    client: Client, container: CoreServices, api_url: str
) -> None:
    done = client.executions.execute("summarise", {"text": "a"}).execution_id
    assert client.executions.logs(done).items == [], "there is no file yet"
    lines = [_line(done, f"e{n}", "error" if n == 2 else "info") for n in range(5)]
    path = _file(container, done)
    path.write_text("".join(lines) + '{"half', encoding="utf-8")

    first = client.executions.logs(done, limit=2)
    rest = client.executions.logs(done, after=first.next_after)

    assert [each.event for each in (*first.items, *rest.items)] == [f"e{n}" for n in range(5)]
    assert (first.more, rest.restarted, rest.elsewhere) == (True, False, None)
    assert first.items[0].fields["attempt"] == 1
    assert [each.event for each in client.executions.logs(done, level="error").items] == ["e2"]
    assert [each.event for each in client.executions.logs(done, tail=1).items] == ["e4"]
    http = client.executions._transport.http
    raw = http.get(f"/api/v1/task-executions/{done}/logs", params={"format": "ndjson"})
    assert raw.text == "".join(lines)
    assert raw.headers["Celeriac-Next-After"] == rest.next_after
    wrongs: list[dict[str, str | int | None]] = [
        {"after": "x"}, {"tail": 1, "after": rest.next_after}, {"limit": 0},
    ]  # fmt: skip
    for wrong in wrongs:
        answer = http.get(f"/api/v1/task-executions/{done}/logs", params=wrong)
        assert answer.status_code == 422
        assert next(iter(wrong)) in answer.text


def test_a_missing_log_says_where_it_is_and_what_helps(
    client: Client, container: CoreServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = client.executions.execute("summarise", {"text": "a"}).execution_id
    _on_host(container, done, "far-away")
    code, message = _code(client, done)
    assert code == "logs_not_here"
    assert "far-away" in message
    assert "CELERIAC_LOG_DIR" in message

    path = _file(container, done)
    path.write_text(_line(done, "execution.requested", service="api"), encoding="utf-8")
    assert client.executions.logs(done).elsewhere == "far-away", "only the API's lines are here"
    with path.open("a") as file:
        file.write(_line(done, "execution.picked_up"))
    assert client.executions.logs(done).elsewhere is None, "both write into one directory"

    secret = container.settings.logs / "api.log"
    secret.write_text(_line(done, "of all"), encoding="utf-8")
    path.unlink()
    path.symlink_to(secret)
    assert _code(client, done)[0] == "logs_not_here"

    client.executions.cancel(done)
    with container.database.autocommit() as connection:
        connection.execute(
            text("UPDATE executions SET completed_at = now() - interval '31 days' WHERE id = :id"),
            {"id": done},
        )
    assert "CELERIAC_RETENTION_LOGS_DAYS" in _code(client, done)[1]


def test_others_learn_nothing_and_paths_are_no_ids(
    ada: Asker, person: Callable[..., Asker], container: CoreServices
) -> None:
    mine = ada.post("/api/v1/tasks/summarise/execute", json={"variables": {"text": "a"}}).json()
    path = f"/api/v1/task-executions/{mine['execution_id']}/logs"
    _file(container, mine["execution_id"]).write_text(_line(mine["execution_id"], "mine"))
    assert "mine" in ada.get(path).text
    eve = person("eve")
    for each in (path, f"{path}/stream"):
        assert (eve.get(each).status_code, eve.get(each).json()["code"]) == (404, "not_found")
    for wrong in ("..%2Fapi", "api", f"{mine['execution_id']}%00"):
        assert ada.get(f"/api/v1/task-executions/{wrong}/logs").status_code in {404, 422}


def test_a_live_tail_shows_lines_as_they_come_also_over_a_rotation_and_ends(
    client: Client, container: CoreServices
) -> None:
    running = client.executions.execute("summarise", {"text": "a"}).execution_id
    taken = claim(container, running)
    path = _file(container, running)
    seen: list[LogLine] = []
    tail = client.executions.follow_logs(running, timeout=60)
    following = threading.Thread(target=lambda: seen.extend(tail), daemon=True)
    following.start()

    def write(event: str) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write(_line(running, event))
        wait_until(lambda: seen[-1:] and seen[-1].event == event, f"the tail shows {event}")

    write("one")
    write("two")
    path.rename(path.with_suffix(".log.1"))
    write("three")
    os.truncate(path, 0)
    write("four")
    finish(container, taken, Completed("b"))
    write("execution.completed")
    following.join(30)
    assert not following.is_alive(), "it ends with the execution"
    assert [each.event for each in seen] == ["one", "two", "three", "four", "execution.completed"]
    last = client.executions.logs(running, limit=1)
    again = client.executions.follow_logs(running, after=last.next_after, timeout=60)
    assert [each.event for each in again] == ["execution.completed"]
