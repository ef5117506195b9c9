"""Repositories: what an agent works in, as tasks and executions name it.

A repository is named by a URL and a ref of git. Which URLs may be used is an administrator's choice
(`RepositoryRule`).
"""

import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal, Self
from urllib.parse import unquote
from uuid import UUID

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from celeriac.domain.base import Strict, Word

SETTING = "CELERIAC_REPOSITORIES_ALLOW"
MOST_COMMANDS = 20
MOST_ROUNDS = 10

_HOST = r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?"
_URLS = re.compile(
    rf"(?:https://{_HOST}|ssh://(?:[A-Za-z0-9_][A-Za-z0-9_.-]*@)?{_HOST}|file://)"
    r"(?P<path>(?:/[A-Za-z0-9_.~+%@=,][A-Za-z0-9_.~+%@=,-]*)+/?)"
)
_OF_GITHUB = re.compile(r"https://[^/]+/[^/]+/[^/]+")
_REF = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.,#=+%@/-]*")
_SHA = re.compile(r"[0-9a-f]{40}")


def _url(text: str) -> str:
    """Refuse all that git, its transports or a shell might read as something else than a place."""
    found = _URLS.fullmatch(text)
    if found is None:
        raise ValueError(
            "must be https://HOST/PATH, ssh://USER@HOST/PATH or file:///PATH, without a password, "
            "a query or special characters"
        )
    # git and servers decode a path, and then find what an administrator has not allowed
    parts = unquote(found["path"], errors="strict").split("/")
    if any(part in {".", ".."} for part in parts):
        raise ValueError("must have no parts `.` and `..` in its path")
    if len(parts) != found["path"].count("/") + 1 or not all(map(_is_plain, parts)):
        raise ValueError("must have no encoded `/`, `%`, `\\` or control characters in its path")
    return text.rstrip("/")


def _is_plain(part: str) -> bool:
    return part.isprintable() and not part.startswith("-") and "%" not in part and "\\" not in part


def _ref(text: str) -> str:
    """Check a name by the rules of git-check-ref-format(1), with fewer characters."""
    parts = text.split("/")
    wrong = any(not part or part.startswith(".") or part.endswith(".lock") for part in parts)
    if _REF.fullmatch(text) is None or wrong or ".." in text or "@{" in text or text[-1] in "./":
        raise ValueError("must be the name of a branch or a tag, or a commit's full sha")
    return text


def _path(text: str) -> str:
    parts = text.split("/")
    if any(part in {"", ".", ".."} or part.lower() == ".git" for part in parts):
        raise ValueError("must be a relative path without empty parts, `.`, `..` and `.git`")
    if not text.isprintable() or text.startswith("-"):
        raise ValueError("must have printable characters only, and not begin with '-'")
    return text


RepositoryUrl = Annotated[
    str, StringConstraints(min_length=1, max_length=1_000), AfterValidator(_url)
]
Ref = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_ref)]
RepositoryPath = Annotated[
    str, StringConstraints(min_length=1, max_length=500), AfterValidator(_path)
]


def _line(text: str) -> str:
    if "\0" in text or not text.strip():
        raise ValueError("must be a command for /bin/sh")
    return text


ShellCommand = Annotated[str, StringConstraints(max_length=10_000), AfterValidator(_line)]
"""A command for /bin/sh; it may have several lines."""

_Commands = Annotated[list[ShellCommand], Field(max_length=MOST_COMMANDS)]


class RepositoryChoice(Strict):
    """What an execution has instead of its task's repository; None keeps the task's value."""

    git: RepositoryUrl | None = None
    ref: Ref | None = None
    path: RepositoryPath | None = None


class Push(Strict):
    """Where the change of an execution is pushed after a successful end."""

    branch: Annotated[str, StringConstraints(min_length=1, max_length=500)] | None = Field(
        default=None, examples=["fix/{{ issue }}"]
    )
    """A template of the branch's name; `celeriac/<execution id>` without one."""
    existing: bool = False
    """Lets it be a branch that others have made, such as the one that was checked out. It is only
    moved forward."""


class PullRequest(Strict):
    """The pull request for a pushed change."""

    title: Annotated[str, StringConstraints(min_length=1, max_length=500)] = (
        "{{ task }}: work of {{ agent }}"
    )
    """A template, of one line."""
    body: Annotated[str, StringConstraints(max_length=20_000)] = "Execution {{ execution_id }}"
    """A template in Markdown."""
    base: Ref | None = None
    """The branch that it is for; the one that was checked out, or the default, without one."""
    draft: bool = False
    provider: Literal["github"] = "github"
    """Whose API its server has: `github` is GitHub, and GitHub Enterprise."""


class Repository(Strict):
    """The git repository of a task, whose checkout is the working directory of its agent."""

    git: RepositoryUrl
    """Its URL: `https://`, `ssh://`, or `file://` where an administrator allows it."""
    ref: Ref | None = None
    """A branch, a tag or the full sha of a commit; the repository's default branch without one."""
    path: RepositoryPath | None = None
    """The directory of the repository in which the agent works; its top without one."""
    setup: _Commands = Field(default_factory=list)
    """Commands that are run in this directory before the agent."""
    verify: _Commands = Field(default_factory=list)
    """Commands that are run there after the agent; the first that fails sends it back."""
    verify_rounds: int = Field(default=1, ge=0, le=MOST_ROUNDS)
    """How often a failing check sends the agent back before the attempt fails."""
    overrides: tuple[Literal["git", "ref", "path"], ...] = Field(default=("ref",), strict=False)
    """What an execution may choose instead."""
    secret: Word | None = None
    """A secret of the workspace, which the worker sends to the repository's server as a password
    (Basic). The agent does not hold it. Only admins of the workspace create or change such a task.
    """
    user: Annotated[str, StringConstraints(pattern=r"^[!-9;-~]{1,100}$")] = "x-access-token"
    """The user whose password the secret is."""
    push: bool | Push = False
    """Whether the change is pushed to the repository after a successful end, with the secret."""
    pull_request: PullRequest | None = None
    """The pull request that is opened for what was pushed."""

    @property
    def pushes(self) -> Push | None:
        """How the change is pushed; None if it is not."""
        if isinstance(self.push, Push):
            return self.push
        return Push() if self.push else None

    @model_validator(mode="after")
    def _can_be_published(self) -> Self:
        if self.pushes is not None and not self.git.startswith("https://"):
            raise ValueError(
                "push is for https:// only, with a secret; leave push out, or correct git"
            )
        if self.pushes is not None and self.secret is None:
            raise ValueError("push needs a secret that may write to the repository; name one")
        if self.pull_request is not None and self.pushes is None:
            raise ValueError("pull_request needs push; set it to true")
        if self.pull_request is not None and _OF_GITHUB.fullmatch(self.git) is None:
            raise ValueError("pull_request needs a git of the form https://HOST/OWNER/NAME")
        return self

    @model_validator(mode="after")
    def _sends_its_secret_to_one_place(self) -> Self:
        if self.secret is not None and not self.git.startswith("https://"):
            raise ValueError("secret is for https:// only; leave it out, or correct git")
        if self.secret is not None and "git" in self.overrides:
            raise ValueError(
                "overrides can't have git with a secret, which would be sent wherever an execution "
                "says; leave one of them out"
            )
        return self

    def chosen(self, choice: RepositoryChoice) -> "Repository":
        """Return the repository of an execution."""
        return self.model_copy(update=choice.model_dump(exclude_none=True))

    def refused(self, choice: RepositoryChoice) -> str | None:
        """Return the first field of `choice` that the task does not leave to executions."""
        given = choice.model_dump(exclude_none=True)
        return next((name for name in given if name not in self.overrides), None)

    @property
    def runs_commands(self) -> bool:
        """Whether it has commands for the shell."""
        return bool(self.setup or self.verify)


@dataclass(frozen=True, slots=True)
class RepositoryAccess:
    """The credentials of a repository for one attempt, and which secret they are from."""

    user: str
    password: str = field(repr=False)
    secret_id: UUID
    version: int

    @property
    def lines(self) -> bytes:
        """The answer of a credential helper of git."""
        return f"username={self.user}\npassword={self.password}\n".encode()

    @property
    def basic(self) -> str:
        """What is sent after `Basic` (RFC 7617)."""
        return b64encode(f"{self.user}:{self.password}".encode()).decode()

    @property
    def values(self) -> tuple[str, ...]:
        """What must not be shown anywhere."""
        return self.password, self.basic


def is_sha(ref: str) -> bool:
    """Whether a ref is the full sha of a commit."""
    return _SHA.fullmatch(ref) is not None


@dataclass(frozen=True, slots=True)
class RepositoryRule:
    """An administrator's choice of the repositories that tasks may use.

    `allow` are beginnings of URLs that end at a `/`: `https://` allows all of a scheme,
    `https://github.com/acme` the repositories of acme. `commands` says whether tasks may have
    commands for the shell.
    """

    allow: Sequence[str] = ("https://",)
    commands: bool = True

    def refusal(self, repository: Repository) -> str | None:
        """Return why a repository may not be used, with the cure."""
        if not any(_begins(repository.git, each) for each in self.allow):
            known = ", ".join(self.allow) or "nothing"
            return (
                f"The repository {repository.git} may not be used: {SETTING} allows {known}. Have "
                "an administrator add it, for the API and the workers."
            )
        if repository.runs_commands and not self.commands:
            return (
                "The commands in setup and verify may not be run: agents are not confined here. "
                "Leave them out, or have an administrator turn confinement on or set "
                "CELERIAC_REPOSITORIES_COMMANDS=always, for the API and the workers."
            )
        return None


def _begins(url: str, prefix: str) -> bool:
    return url == prefix or url.startswith(prefix if prefix.endswith("/") else f"{prefix}/")


def branch_of(execution_id: object) -> str:
    """Return the branch on which an execution's change is."""
    return f"celeriac/{execution_id}"
