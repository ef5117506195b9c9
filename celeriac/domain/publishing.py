"""How the change of an execution is published: the branch that is pushed, and its pull request.

Their texts are templates, like prompts, which also know `execution_id`, `task` and `agent`.
"""

from dataclasses import dataclass
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import TypeAdapter

from celeriac.domain.errors import InvalidInputError, TemplateInvalidError, TemplateRenderError
from celeriac.domain.prompts import WorkLimit, check_template, compiled
from celeriac.domain.repositories import Ref, Repository, branch_of
from celeriac.kit.json_types import JsonObject

FIELD = "repository"
_NAMES = ("execution_id", "task", "agent")
_REF: TypeAdapter[str] = TypeAdapter(Ref)
_MOST_TITLE = 250
_MOST_BODY = 60_000


@dataclass(frozen=True, slots=True)
class NewPullRequest:
    """The texts of a pull request; `base` None stands for the branch that was checked out."""

    title: str
    body: str
    base: str | None
    draft: bool


@dataclass(frozen=True, slots=True)
class Publication:
    """What is to be pushed where. `own` says that the branch is only this execution's."""

    branch: str
    own: bool
    existing: bool
    pull_request: NewPullRequest | None


def publication_of(
    repository: Repository,
    variables: JsonObject,
    work: WorkLimit,
    *,
    execution_id: UUID,
    task: str,
    agent: str,
) -> Publication | None:
    """Return what an execution publishes; None if it pushes nothing.

    Raises TemplateRenderError, and InvalidInputError for a branch that can't be used.
    """
    push = repository.pushes
    if push is None:
        return None
    names = {"execution_id": str(execution_id), "task": task, "agent": agent}
    values = {**names, **variables}
    branch = branch_of(execution_id)
    if push.branch is not None:
        branch = _branch(_rendered("push.branch", push.branch, values, work).strip())
    if branch == repository.ref and not push.existing:
        raise InvalidInputError(
            f"{branch} is the branch that is checked out. Name another one, or allow it with "
            "push.existing.",
            field=f"{FIELD}.push.branch",
        )
    asked = repository.pull_request
    request = None
    if asked is not None:
        title = _rendered("pull_request.title", asked.title, values, work).strip().splitlines()
        request = NewPullRequest(
            (title[0] if title else branch)[:_MOST_TITLE],
            _rendered("pull_request.body", asked.body, values, work)[:_MOST_BODY],
            asked.base,
            asked.draft,
        )
        if branch == (asked.base or repository.ref):
            raise InvalidInputError(
                f"{branch} can't be merged into itself; correct push.branch, or set "
                "pull_request.base to another branch.",
                field=f"{FIELD}.pull_request.base",
            )
    return Publication(branch, push.branch is None, push.existing, request)


def check_publication(repository: Repository, schema: JsonObject) -> None:
    """Raise TemplateInvalidError for the first template that can't be used.

    Raises InvalidInputError for a branch without variables that can't be the name of one.
    """
    push, asked = repository.pushes, repository.pull_request
    templates = {
        "push.branch": None if push is None else push.branch,
        "pull_request.title": None if asked is None else asked.title,
        "pull_request.body": None if asked is None else asked.body,
    }
    known = schema.get("properties")
    if isinstance(known, dict):
        schema = {**schema, "properties": {**dict.fromkeys(_NAMES, True), **known}}
    for place, template in templates.items():
        try:
            check_template(template or "", schema)
        except TemplateInvalidError as error:
            field = f"spec.{FIELD}.{place}"
            details = {**error.details, "field": field}
            raise TemplateInvalidError(f"{field}: {error.message}", **details) from None
    if push is not None and push.branch is not None and "{" not in push.branch:
        _branch(push.branch.strip(), f"spec.{FIELD}.push.branch")


def owner_and_name(url: str) -> tuple[str, str]:
    """Return the owner and the name of a repository of GitHub."""
    owner, _, name = urlsplit(url).path.strip("/").partition("/")
    return owner, name.removesuffix(".git")


def _rendered(place: str, template: str, values: JsonObject, work: WorkLimit) -> str:
    """Return the text of the field `place`. Raises TemplateRenderError, which names it."""
    try:
        return compiled(template).render(values, work)
    except TemplateRenderError as error:
        raise TemplateRenderError(f"{FIELD}.{place}: {error.message}", **error.details) from None


def _branch(text: str, field: str = f"{FIELD}.push.branch") -> str:
    try:
        if text == "HEAD":
            raise ValueError
        return _REF.validate_python(text)
    except ValueError:  # pydantic's too
        raise InvalidInputError(
            f"{field}: {text[:100]!r} can't be the name of a branch. Use letters, digits, '-', "
            "'_', '.' and '/' only; begin each part between '/' with a letter or a digit, end "
            "none with '.' or '.lock', and leave out '..' and the name HEAD.",
            field=field,
        ) from None
