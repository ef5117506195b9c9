"""What doctor says of what grows, ages and ends, on real servers."""

from collections.abc import Mapping

import pytest
from pydantic import SecretStr
from redis import Redis
from sqlalchemy import text
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from celeriac.adapters import provider_probe
from celeriac.adapters.provider_probe import ask_all
from celeriac.db import maintenance
from celeriac.domain.doctor import Code, Finding, Level, ProviderAnswer
from celeriac.domain.operations import JobReport
from celeriac.services.doctor import upkeep
from celeriac.settings import Settings
from celeriac.settings.sections import ProviderSettings
from celeriac.wiring.core import CoreServices
from celeriac.wiring.doctor import build_checks
from tests.support.http_server import serving
from tests.support.waiting import wait_until

pytestmark = pytest.mark.requirement("E8")


def found(settings: Settings, code: Code) -> Finding:
    (finding,) = [each for each in build_checks(settings).upkeep() if each.code is code]
    return finding


def test_a_table_that_is_not_vacuumed_is_named(
    container: CoreServices, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "DEAD_ROWS", 50)
    assert found(settings, Code.VACUUM).level is Level.OK
    with container.database.autocommit() as connection:
        for statement in (
            "CREATE TABLE piled_up (id int) WITH (autovacuum_enabled = false)",
            "INSERT INTO piled_up SELECT generate_series(1, 100)",
            "DELETE FROM piled_up",
            "SELECT pg_stat_force_next_flush()",
        ):
            connection.execute(text(statement))

    def is_named() -> bool:
        finding = found(settings, Code.VACUUM)
        return finding.level is Level.WARNING and "piled_up (100 dead, 0 live" in finding.message

    wait_until(is_named, "the statistics are written")


def test_transaction_ids_that_run_out_are_a_failure(
    container: CoreServices, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found(settings, Code.TRANSACTION_IDS).level is Level.OK
    monkeypatch.setattr(upkeep, "OLD_TRANSACTIONS", 0)
    assert found(settings, Code.TRANSACTION_IDS).level is Level.FAILED


def test_a_keeper_that_does_nothing_is_a_failure(
    container: CoreServices, settings: Settings
) -> None:
    assert found(settings, Code.KEEPER).level is Level.WARNING, "it may never have begun"
    job = JobReport(
        name="retention", host="a", interval_seconds=1, seconds=1, next_in=1, done=0, failures=0,
        error=None,
    )  # fmt: skip
    with container.database.autocommit() as connection:
        maintenance.record(connection, job)
    assert found(settings, Code.KEEPER).level is Level.OK
    with container.database.autocommit() as connection:
        connection.execute(
            text(
                "UPDATE maintenance_jobs SET ended_at = ended_at - interval '1 hour',"
                " next_at = next_at - interval '1 hour'"
            )
        )
    finding = found(settings, Code.KEEPER)
    assert finding.level is Level.FAILED
    assert finding.message == "no job of it has ended for 1 h 0 min"


def test_keys_in_use_that_end_soon_are_named(container: CoreServices, settings: Settings) -> None:
    with container.database.autocommit() as connection:
        connection.execute(
            text("""
WITH made AS (INSERT INTO workspaces (id, name) VALUES (gen_random_uuid(), 'w') RETURNING id),
who AS (INSERT INTO users (id, name, role) VALUES (gen_random_uuid(), 'ada', 'operator')
        RETURNING id)
INSERT INTO api_keys (id, user_id, workspace_id, name, prefix, digest, role, unlimited, created_at,
                      expires_at, last_used_at, revoked_at)
SELECT gen_random_uuid(), who.id, made.id, k.name, k.name, k.name, 'operator', false,
       now() - make_interval(days => k.age), now() + make_interval(days => k.ends),
       now() - make_interval(days => k.used), CASE WHEN k.name = 'revoked' THEN now() END
FROM who, made, (VALUES ('soon', 60, 3, 1), ('later', 60, 30, 1), ('unused', 60, 3, 50),
                        ('short', 1, 3, 0), ('revoked', 60, 3, 1), ('ended', 60, -1, 2))
     AS k (name, age, ends, used)""")
        )
    finding = found(settings, Code.EXPIRING_KEYS)
    assert finding.level is Level.WARNING
    assert finding.message.startswith("1 key in use will end within 7 days: 'soon' of ada (")


def test_what_fills_redis_is_named(
    settings: Settings, container: CoreServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told() -> list[Finding]:
        return list(build_checks(settings).redis_keys())

    assert {each.level for each in told()} == {Level.OK}
    assert len(told()) == 3, "the application's database, the broker's and the results'"
    with Redis.from_url(str(settings.redis_url)) as client:
        client.set("celeriac:ours", "1")
        client.set("theirs", "1", ex=60)
        client.rpush("a queue of somebody", "1")
        client.mset({f"kept:{number}": "1" for number in range(101)})
        warned = [each for each in told() if each.level is Level.WARNING]
        assert len(warned) == 1
        assert "of 104 that were looked at, 101 never expire" in warned[0].message
        assert "kept:" in warned[0].message
        client.flushdb()
        monkeypatch.setattr(upkeep, "_MOST_WAITING", 2)
        client.rpush("1234.reply.celery.pidbox", "a", "b", "c")
        (warned_of_replies,) = [each for each in told() if each.level is Level.WARNING]
        assert "nobody reads 3 messages of Celery's own" in warned_of_replies.message
        client.flushdb()


def test_providers_are_asked_without_a_key_and_whoever_does_not_answer_is_named() -> None:
    asked: list[tuple[str, dict[str, str]]] = []

    async def refuse(request: Request) -> Response:
        asked.append((request.url.path, dict(request.headers)))
        return Response(status_code=401)

    app = Starlette(routes=[Route("/v1/models", refuse)])
    with serving(app) as url:
        answers = ask_all({"here": f"{url}/v1", "closed": "http://127.0.0.1:1/v1"})
    findings = list(upkeep.judge_providers(answers))
    assert [(each.code, each.level) for each in findings] == [
        (Code.PROVIDERS, Level.OK), (Code.PROVIDERS, Level.FAILED),
    ]  # fmt: skip
    assert findings[0].message == "here (127.0.0.1) answers with 401"
    assert findings[1].message.startswith("closed (127.0.0.1) does not answer: ")
    ((path, headers),) = asked
    assert path == "/v1/models"
    assert not {"authorization", "x-api-key"} & set(headers)


def test_only_providers_outside_this_machine_that_are_set_up_are_asked(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Mapping[str, str]] = []

    def ask(providers: Mapping[str, str]) -> list[ProviderAnswer]:
        asked.append(providers)
        return []

    monkeypatch.setattr(provider_probe, "ask_all", ask)
    changed = settings.model_copy(
        update={
            "openai_api_key": None,
            "local_model_url": "http://127.0.0.1:1/v1",
            "providers": {"vllm": ProviderSettings(base_url="http://10.0.0.8:8000/v1")},
            "anthropic_api_key": SecretStr("never sent"),
        }
    )
    (finding,) = build_checks(changed).providers()
    assert finding.level is Level.OK
    assert asked == [
        {"vllm": "http://10.0.0.8:8000/v1", "anthropic": f"{settings.anthropic_base_url}/v1"}
    ]
