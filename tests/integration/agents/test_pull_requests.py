"""Pull requests for what was pushed: opened once, and found again."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from celeriac.agents.command.runner import CommandRunner
from celeriac.agents.repository import pull_requests
from celeriac.agents.repository.pull_requests import github_api
from celeriac.domain.errors import PullRequestFailedError
from celeriac.domain.executions.events import EventType
from celeriac.domain.repositories import Repository
from celeriac.services.ports import Job
from tests.support.git_server import (
    ACCESS,
    PASSWORD,
    GitServer,
    may_use,
    private_server,
    served_copy,
)
from tests.support.github import PullRequests
from tests.support.repositories import Desk, Origin, answer, git
from tests.support.run_context import command_job, events_of

pytestmark = [pytest.mark.anyio, pytest.mark.requirement("F26")]


@pytest.fixture
def api() -> PullRequests:
    return PullRequests(PASSWORD)


@pytest.fixture
def server(
    tmp_path: Path, origin: Origin, api: PullRequests, monkeypatch: pytest.MonkeyPatch
) -> Iterator[GitServer]:
    served_copy(origin, tmp_path / "served" / "acme", "shop.git")
    pulls = Route("/api/v3/repos/acme/shop/pulls", api.answer, methods=["GET", "POST"])
    with private_server(tmp_path / "served", monkeypatch, pulls) as running:
        yield running


@pytest.fixture
def desk(desk: Desk, server: GitServer) -> Desk:
    return may_use(desk, server)


def job_of(server: GitServer, *, push: Any = True, **request: Any) -> Job:
    repository = {
        "git": f"{server.url}/acme/shop.git",
        "secret": "shop",
        "push": push,
        "pull_request": request,
    }
    return replace(
        command_job("shell", f"read start\ndate +%N >lib/value\n{answer('done')}"),
        execution_id=uuid4(),
        repository=Repository.model_validate(repository),
        repository_access=ACCESS,
        variables={"issue": 12},
    )


async def test_a_pull_request_is_opened_once(
    desk: Desk, server: GitServer, shell: CommandRunner, api: PullRequests
) -> None:
    texts = {"title": "Fixes {{ issue }}\nand more", "body": "By {{ execution_id }}", "draft": True}
    job = job_of(server, **texts)
    _, context = await desk.run(shell, job)
    (made,) = api.made
    branch = f"celeriac/{job.execution_id}"
    assert (made["title"], made["body"], made["head"], made["base"], made["draft"]) == (
        "Fixes 12",
        f"By {job.execution_id}",
        branch,
        "main",
        True,
    )
    (event,) = events_of(context, EventType.PULL_REQUEST)
    assert event == {
        "url": "https://github.example.com/acme/shop/pull/1",
        "number": 1,
        "branch": branch,
        "base": "main",
        "new": True,
        "attempt": 1,
    }
    # a repeated attempt finds it, also if it was closed meanwhile
    for attempt, state in ((2, "open"), (3, "closed")):
        made["state"] = state
        _, context = await desk.run(shell, replace(job, attempt=attempt))
        (event,) = events_of(context, EventType.PULL_REQUEST)
        assert (event["number"], event["new"]) == (1, False)
    assert len(api.made) == 1
    assert PASSWORD not in repr((context.events, context.logged()))


async def test_a_branch_of_several_executions_gets_another_one_after_the_first_is_closed(
    desk: Desk, server: GitServer, shell: CommandRunner, api: PullRequests, tmp_path: Path
) -> None:
    served = tmp_path / "served/acme/shop.git"
    for state in ("merged", "open"):
        job = job_of(server, push={"branch": "bot/{{ issue }}"}, base="main")
        await desk.run(shell, job)
        api.made[-1]["state"] = state
        git(served, "branch", "--delete", "--force", "bot/12")
    assert [each["head"] for each in api.made] == ["bot/12"] * 2
    # one that somebody opens between the look and the request
    api.answers = [JSONResponse([]), JSONResponse({"message": "Validation Failed"}, 422)]
    _, context = await desk.run(shell, job_of(server, push={"branch": "bot/12"}, base="main"))
    assert events_of(context, EventType.PULL_REQUEST)[0]["number"] == 2


async def test_a_server_that_is_away_for_a_moment_is_asked_again_and_a_refusal_ends_the_attempt(
    desk: Desk, server: GitServer, shell: CommandRunner, api: PullRequests
) -> None:
    limited = {"retry-after": "1"}
    api.answers = [
        JSONResponse({"message": "away"}, 502),
        JSONResponse({"message": "secondary rate limit"}, 403, headers=limited),
    ]
    _, context = await desk.run(shell, job_of(server))
    assert events_of(context, EventType.PULL_REQUEST)[0]["new"] is True
    api.answers = [JSONResponse([]), JSONResponse({"message": f"no rights for {PASSWORD}"}, 403)]
    job = job_of(server)
    context = desk.context(job)
    with pytest.raises(PullRequestFailedError, match="403: no rights") as caught:
        await desk.run(shell, job, context)
    assert PASSWORD not in str(caught.value)
    assert events_of(context, EventType.PUSHED)[0]["new"] is True
    assert events_of(context, EventType.PULL_REQUEST) == []


@pytest.fixture
def one_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull_requests, "_PAUSES", ())


@pytest.mark.usefixtures("one_try")
async def test_a_server_that_stays_away_is_named_with_what_it_answers(
    desk: Desk, server: GitServer, shell: CommandRunner, api: PullRequests
) -> None:
    api.answers = [JSONResponse({"message": "rate limit"}, 403, headers={"retry-after": "60"})]
    with pytest.raises(PullRequestFailedError, match="pulls: its server answers 403: rate limit"):
        await desk.run(shell, job_of(server))


DEEP = "[" * 200_000


@pytest.mark.usefixtures("one_try")
@pytest.mark.parametrize(
    "answer",
    [
        JSONResponse({"message": "no list"}),
        JSONResponse([["no pull request"]]),
        JSONResponse([{"number": 1, "html_url": "javascript:alert(1)"}]),
        JSONResponse([{"number": 1, "html_url": "https://example.com/" + "x" * 3_000}]),
        JSONResponse([{"number": 10**30, "html_url": "https://example.com/1"}]),
        Response(DEEP, media_type="application/json"),
        Response(DEEP, 422, media_type="application/json"),
    ],
    ids=["no list", "no object", "script", "long", "number", "deep", "deep refusal"],
)
async def test_answers_of_another_kind_are_a_failed_pull_request(
    desk: Desk,
    server: GitServer,
    shell: CommandRunner,
    api: PullRequests,
    answer: Response,
) -> None:
    api.answers = [answer]
    job = job_of(server)
    context = desk.context(job)
    with pytest.raises(PullRequestFailedError):
        await desk.run(shell, job, context)
    assert events_of(context, EventType.PUSHED)[0]["new"] is True


async def test_the_address_of_a_pull_request_does_not_show_the_secret(
    desk: Desk, server: GitServer, shell: CommandRunner, api: PullRequests
) -> None:
    api.answers = [JSONResponse([{"number": 7, "html_url": f"https://example.com/{PASSWORD}/7"}])]
    _, context = await desk.run(shell, job_of(server))
    assert events_of(context, EventType.PULL_REQUEST)[0]["number"] == 7
    assert PASSWORD not in repr((context.events, context.logged()))


def test_the_api_is_on_the_host_of_the_repository() -> None:
    for url, api in (
        ("https://github.com/acme/shop.git", "https://api.github.com"),
        ("https://acme.ghe.com/acme/shop", "https://api.acme.ghe.com"),
        ("https://git.example.com:8443/acme/shop", "https://git.example.com:8443/api/v3"),
        ("https://notgithub.com/acme/shop", "https://notgithub.com/api/v3"),
    ):
        assert github_api(url) == api
