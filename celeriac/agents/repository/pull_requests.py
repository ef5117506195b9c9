"""Opens pull requests at the API of a repository's server, with the repository's secret.

The API is on the host of the repository, which an administrator and the guard have allowed; so the
secret goes nowhere else. Another provider is another class with `open`.
"""

import asyncio
import re
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx2

from celeriac.domain.errors import PullRequestFailedError
from celeriac.domain.publishing import NewPullRequest, owner_and_name
from celeriac.domain.repositories import Repository, RepositoryAccess
from celeriac.kit.json_types import JsonObject
from celeriac.kit.outbound import OutboundGuard, guarded_client
from celeriac.kit.text import clip
from celeriac.logs.masks import Masker
from celeriac.services.ports import Job
from celeriac.version import __version__

_SECONDS = 20.0
_MOST_BYTES = 8_000_000
_PAUSES = (1.0, 4.0)
_SHOWN = 300
_CREATED, _INVALID = 201, 422
_ADDRESS = re.compile(r"https://[!-~]{1,2000}")
_MOST_NUMBER = 2**53


@dataclass(frozen=True, slots=True)
class PullRequestMade:
    """A pull request; `new` is False for one that was there."""

    number: int
    url: str
    new: bool


class Provider(Protocol):
    """Opens pull requests of one repository."""

    async def open(
        self, wanted: NewPullRequest, *, head: str, base: str | None, own: bool
    ) -> PullRequestMade:
        """Open a pull request of the branch `head`, or return the one that there is.

        `own` says that the branch is only this execution's: then a closed one counts, too. Raises
        PullRequestFailedError.
        """
        ...


def provider_of(repository: Repository, job: Job, guard: OutboundGuard) -> Provider:
    """Return the provider of a repository that has a secret and a pull request."""
    access = job.repository_access
    assert access is not None, "a repository with a pull request has a secret"
    return Github(repository.git, access, guard)


class _PassingError(Exception):
    """What may be otherwise a moment later."""


class Github:
    """GitHub, and GitHub Enterprise: https://docs.github.com/en/rest/pulls/pulls."""

    def __init__(self, url: str, access: RepositoryAccess, guard: OutboundGuard) -> None:
        self._owner, name = owner_and_name(url)
        self._url = f"{github_api(url)}/repos/{self._owner}/{name}/pulls"
        self._access, self._guard = access, guard
        self._masker = Masker(access.values)

    async def open(
        self, wanted: NewPullRequest, *, head: str, base: str | None, own: bool
    ) -> PullRequestMade:
        """Do what `Provider.open` says."""
        if base is None:
            raise self._failed("the repository has no default branch. Set pull_request.base")
        headers = {
            "authorization": f"Bearer {self._access.password}",
            "accept": "application/vnd.github+json",
            "x-github-api-version": "2022-11-28",
            "user-agent": f"celeriac/{__version__}",
        }
        async with guarded_client(
            self._guard,
            timeout_seconds=_SECONDS,
            max_bytes=_MOST_BYTES,
            https_only=True,
            headers=headers,
        ) as client:
            for pause in (*_PAUSES, None):
                try:
                    return await self._open(client, wanted, head, base, own=own)
                except (_PassingError, httpx2.HTTPError) as error:
                    if pause is None:
                        ours = isinstance(error, _PassingError)
                        kind = "" if ours else f"{type(error).__name__}: "
                        raise self._failed(f"{kind}{error}") from None
                await asyncio.sleep(pause)
        raise AssertionError("the last try returns or raises")

    async def _open(
        self, client: httpx2.AsyncClient, wanted: NewPullRequest, head: str, base: str, *, own: bool
    ) -> PullRequestMade:
        found = await self._found(client, head, base, own=own)
        if found is not None:
            return found
        body: JsonObject = {
            "title": wanted.title,
            "body": wanted.body,
            "head": head,
            "base": base,
            "draft": wanted.draft,
        }
        answer = await client.post(self._url, json=body)
        if answer.status_code == _CREATED:
            return self._made(self._read(answer), new=True)
        if answer.status_code == _INVALID:  # somebody has opened one since
            found = await self._found(client, head, base, own=own)
            if found is not None:
                return found
        raise self._refusal(answer)

    async def _found(
        self, client: httpx2.AsyncClient, head: str, base: str, *, own: bool
    ) -> PullRequestMade | None:
        """Return the newest pull request of the branch: one that is open, or any if it is `own`."""
        query = {
            "head": f"{self._owner}:{head}",
            "base": base,
            "state": "all" if own else "open",
            "per_page": "1",
        }
        answer = await client.get(self._url, params=query)
        if not answer.is_success:
            raise self._refusal(answer)
        pulls = self._read(answer)
        if not isinstance(pulls, list):
            raise _PassingError("the answer has no list of pull requests")
        return self._made(pulls[0], new=False) if pulls else None

    def _read(self, answer: httpx2.Response) -> Any:
        try:
            return answer.json()
        except (ValueError, RecursionError) as error:
            raise _PassingError("the answer is no JSON") from error

    def _made(self, body: Any, *, new: bool) -> PullRequestMade:
        try:
            number, url = int(body["number"]), self._masker.text(str(body["html_url"]))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise _PassingError("the answer has no pull request") from error
        if not 0 < number <= _MOST_NUMBER or _ADDRESS.fullmatch(url) is None:
            raise _PassingError("the pull request has no number and address that can be shown")
        return PullRequestMade(number, url, new)

    def _refusal(self, answer: httpx2.Response) -> Exception:
        """Return the error of an answer, with what the server says."""
        said = ""
        try:
            body = answer.json()
            faults = [str(each.get("message", "")) for each in body.get("errors", ())]
            said = " ".join([str(body.get("message", "")), *faults]).strip()
        except (ValueError, AttributeError, TypeError, RecursionError):
            said = answer.reason_phrase
        said = clip(self._masker.text(said), _SHOWN)
        text = f"its server answers {answer.status_code}: {said}"
        # GitHub answers 403 to too many requests, too
        headers = answer.headers
        limited = "retry-after" in headers or headers.get("x-ratelimit-remaining") == "0"
        if answer.status_code >= 500 or answer.status_code == 429 or limited:  # noqa: PLR2004 - known statuses
            return _PassingError(text)
        return self._failed(
            f"{text}. Check that the secret may write pull requests, and pull_request.base"
        )

    def _failed(self, reason: str) -> PullRequestFailedError:
        return PullRequestFailedError(
            f"The change is pushed, but there is no pull request at {self._url}: "
            f"{self._masker.text(reason)}"
        )


def github_api(url: str) -> str:
    """Return the address of the API for a repository of GitHub, or of GitHub Enterprise."""
    host = urlsplit(url).netloc
    if host == "github.com" or host.endswith(".ghe.com"):
        return f"https://api.{host}"
    return f"https://{host}/api/v3"
