"""Celery's settings (REQUIREMENTS A8): in force in a running worker, each set from outside."""

import json

import pytest

from celeriac.settings.sections import CelerySettings
from tests.support.celery_commands import inspect, library_user
from tests.support.fleet import UNHURRIED, Fleet
from tests.support.programs import Program

_CHANGED = {
    "task_acks_late": False,
    "task_reject_on_worker_lost": False,
    "task_track_started": False,
    "task_time_limit": 90.0,
    "task_soft_time_limit": 80.0,
    "worker_prefetch_multiplier": 4,
    "worker_max_tasks_per_child": 7,
    "worker_max_memory_per_child": 400_000,
    "worker_hijack_root_logger": True,
    "worker_soft_shutdown_timeout": 3.0,
    "result_extended": False,
    "result_expires": 60,
    "include": ["tests.support.plain_tasks", "json"],
    "enable_utc": False,
    "timezone": "Europe/Berlin",
}
_CHANGED_TRANSPORT = {
    "visibility_timeout": 77,
    "publish_timeout": 2.5,
    "queue_type": "classic",
    "delivery_limit": 7,
}
_READ = """
import json
from celeriac.celery import app
names = {names}
print(json.dumps({{name: app.conf[name] for name in names}}))
"""


@pytest.mark.requirement("A8")
def test_a_running_worker_has_the_settings_of_a8(fleet: Fleet, worker: Program) -> None:
    conf = inspect(fleet, "conf")
    expected = {
        "task_serializer": "json",
        "result_serializer": "json",
        "accept_content": ["json"],
        "enable_utc": True,
        "timezone": "UTC",
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "task_track_started": True,
        "task_time_limit": 60.0,
        "task_soft_time_limit": 55.0,
        "worker_prefetch_multiplier": 1,
        "result_extended": True,
        "result_expires": 3600,
        "worker_hijack_root_logger": False,
        "worker_max_tasks_per_child": 1000,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_send_task_events": False,
        "task_send_sent_event": False,
    }
    assert {name: conf.get(name) for name in expected} == expected
    transport = conf["broker_transport_options"]
    assert transport["visibility_timeout"] == int(UNHURRIED["CELERIAC_CELERY_VISIBILITY_TIMEOUT"])
    assert transport["unacked_restore_interval"] == transport["unacked_restore_throttle"] == 1


@pytest.mark.requirement("A8")
def test_every_setting_is_set_from_the_environment(fleet: Fleet) -> None:
    assert {*_CHANGED, *_CHANGED_TRANSPORT} == set(CelerySettings.model_fields), "one is untried"
    env = {
        f"CELERIAC_CELERY_{name}".upper(): json.dumps(value).strip('"')
        for name, value in (_CHANGED | _CHANGED_TRANSPORT).items()
    }
    names = [*_CHANGED, "broker_transport_options"]
    conf = dict(library_user(fleet, _READ.format(names=names), **env))
    transport = conf.pop("broker_transport_options")
    assert conf == _CHANGED
    assert transport["visibility_timeout"] == 77


@pytest.mark.requirement("A22", "B1")
def test_broker_and_results_are_where_the_environment_says(fleet: Fleet) -> None:
    program = _READ.format(names=["broker_url", "result_backend"])
    redis_url = fleet.environment()["REDIS_URL"]
    conf = fleet.celery.conf
    assert conf.broker_url == redis_url.removesuffix("/0") + "/1"
    assert conf.result_backend == redis_url.removesuffix("/0") + "/2"
    chosen = {
        "CELERY_BROKER_URL": "amqp://rabbit:5672//",
        "CELERY_RESULT_BACKEND": "redis://elsewhere:6379/9",
    }
    assert list(library_user(fleet, program, **chosen).values()) == list(chosen.values())
