"""What Celery's worker is started with."""

import os

import pytest

from celeriac.cli.core.output import UsageProblemError
from celeriac.cli.programs import include_arguments, worker_arguments

QUEUES = ("task_execution", "default")


def _defaults_of(*given: str) -> list[str]:
    arguments = worker_arguments(given, QUEUES)
    assert arguments[len(arguments) - len(given) :] == list(given), "what is given comes last"
    return arguments[: len(arguments) - len(given)]


def test_without_options_it_is_a_hundred_threads_on_all_queues() -> None:
    assert _defaults_of() == [
        "--pool=threads",
        "--concurrency=100",
        "--queues=task_execution,default",
        f"--hostname=celeriac-{os.getpid()}@%h",
        "--loglevel=INFO",
        "--without-gossip",
        "--without-mingle",
    ]


@pytest.mark.requirement("E9")
@pytest.mark.parametrize(
    ("given", "replaced"),
    [
        (("-c", "4"), "--concurrency"),
        (("-c4",), "--concurrency"),
        (("--concurrency", "4"), "--concurrency"),
        (("--concurrency=4",), "--concurrency"),
        (("-Q", "mine"), "--queues"),
        (("--queues=mine",), "--queues"),
        (("-n", "me@%h"), "--hostname"),
        (("-l", "debug"), "--loglevel"),
        (("--pool=threads",), "--pool"),
        (("--without-mingle",), "--without-mingle"),
    ],
)
def test_what_is_given_replaces_its_default(given: tuple[str, ...], replaced: str) -> None:
    names = [default.partition("=")[0] for default in _defaults_of(*given)]
    assert replaced not in names
    assert len(names) == 6, "nothing else changes"


@pytest.mark.parametrize("given", [("--pool", "prefork"), ("-P", "solo"), ("-Pprefork",)])
def test_other_pools_choose_their_own_concurrency(given: tuple[str, ...]) -> None:
    assert not [default for default in _defaults_of(*given) if "concurrency" in default]


@pytest.mark.requirement("E9")
def test_autoscale_takes_prefork_for_threads_cannot_grow() -> None:
    defaults = _defaults_of("--autoscale=8,2")
    assert "--pool=prefork" in defaults
    assert not [default for default in defaults if "concurrency" in default]


def test_the_last_of_several_pools_counts() -> None:
    assert not [
        default
        for default in _defaults_of("--pool=threads", "--pool=solo")
        if "concurrency" in default
    ]


def test_long_options_are_not_taken_for_short_ones() -> None:
    assert "--concurrency=100" in _defaults_of("--config=mine")


@pytest.mark.parametrize("given", [("--pool=gevent",), ("-P", "eventlet"), ("-Pgevent",)])
def test_pools_that_replace_threads_are_refused(given: tuple[str, ...]) -> None:
    with pytest.raises(UsageProblemError, match="not supported; use threads, prefork or solo"):
        worker_arguments(given, QUEUES)


def test_modules_to_load_become_one_option() -> None:
    assert include_arguments(["json", "email.mime, csv"]) == ["--include=json,email.mime,csv"]
    assert include_arguments([]) == []


def test_a_module_that_is_nowhere_is_refused() -> None:
    with pytest.raises(UsageProblemError, match=r"--include nosuch\.tasks"):
        include_arguments(["json", "nosuch.tasks"])
