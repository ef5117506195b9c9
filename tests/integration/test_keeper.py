"""The keeper's chores, as beat does them."""

import threading
from dataclasses import replace
from uuid import UUID

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from celeriac.db import executions
from celeriac.domain.errors import ConfigurationError
from celeriac.domain.outcome import Completed
from celeriac.domain.states import Status
from celeriac.services.submit import Request
from celeriac.settings import ApprovalSettings, RetentionSettings, Settings
from celeriac.wiring import Container, build_notices
from celeriac.worker.beat import chores
from tests.support.asking import a_question, park
from tests.support.catalog import make_actor, make_task
from tests.support.waiting import wait_until
from tests.support.working import claim, finish


def test_the_keeper_removes_what_is_old_enough(container: Container) -> None:
    """A few milliseconds are enough here."""
    settings = container.settings.model_copy(
        update={"retention": RetentionSettings(executions_days=1e-9)}
    )
    actor = make_actor(container.database)
    task = make_task(container.database, actor)
    kept, old = (container.submit.one(actor, Request(task_id=task)).execution_id for _ in "ab")
    finish(container, claim(container, old), Completed(None))
    workdir = settings.home / "work" / str(old)
    workdir.mkdir(parents=True)
    container = replace(container, settings=settings)
    (chore,) = [each for each in chores(container, settings.keeper) if each.name == "retention"]
    chore.work()

    def left() -> list[UUID]:
        with container.database.statement() as connection:
            return list(connection.execute(text("SELECT id FROM executions")).scalars())

    def rests() -> bool:
        return all(thread.name != "retention" for thread in threading.enumerate())

    wait_until(rests, "its thread has ended")
    assert left() == [kept], "the old one is gone, the live one is there"
    assert not workdir.exists()


def test_the_keeper_answers_what_nobody_answered(container: Container) -> None:
    actor = make_actor(container.database)
    task = make_task(container.database, actor)
    asking = container.submit.one(actor, Request(task_id=task)).execution_id
    park(container, asking, a_question(on_expiry="fail", expires_seconds=0.001))

    by_name = {each.name: each for each in chores(container, container.settings.keeper)}
    wait_until(by_name["expire_approvals"].work, "its time is over")

    with container.database.statement() as connection:
        found = executions.get(connection, asking, owner=None)
    assert found is not None
    assert (found.status, found.error_code) == (Status.FAILED, "approval_expired")
    assert "notify_of_approvals" not in by_name, "nobody is told without a webhook"
    assert by_name["withdraw_approvals"].work() == 0


def test_links_are_sent_in_the_clear_to_no_webhook_outside(container: Container) -> None:
    def settings(url: str) -> Settings:
        approvals = ApprovalSettings(webhook=url, webhook_secret=SecretStr("s" * 16))
        return container.settings.model_copy(
            update={"approvals": approvals, "secret_key": SecretStr("k" * 32)}
        )

    with pytest.raises(ConfigurationError, match="must begin with https"):
        build_notices(replace(container, settings=settings("http://hooks.example.com")))
    assert build_notices(replace(container, settings=settings("https://hooks.example.com")))
