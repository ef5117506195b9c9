"""How the change of an execution is published: the branch that is pushed, and its pull request.

Their texts are templates, like prompts, which also know `execution_id`, `task` and `agent`.
"""

from dataclasses import dataclass
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import TypeAdapter

from celeriac.domain.errors import InvalidInputError, TemplateInvalidError
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
        branch = _branch(compiled(push.branch).render(values, work).strip())
    if branch == repository.ref and not push.existing:
        raise InvalidInputError(
            f"{branch} is the branch that is checked out. Name another one, or allow it with "
            "push.existing.",
            field=f"{FIELD}.push.branch",
        )
    asked = repository.pull_request
    request = None
    if asked is not None:
        title = compiled(asked.title).render(values, work).strip().splitlines()
        request = NewPullRequest(
            (title[0] if title else branch)[:_MOST_TITLE],
            compiled(asked.body).render(values, work)[:_MOST_BODY],
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
    """Raise TemplateInvalidError for the first template that can't be used."""
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
            raise TemplateInvalidError(error.message, **{**error.details, "field": field}) from None


def owner_and_name(url: str) -> tuple[str, str]:
    """Return the owner and the name of a repository of GitHub."""
    owner, _, name = urlsplit(url).path.strip("/").partition("/")
    return owner, name.removesuffix(".git")


def _branch(text: str) -> str:
    try:
        if text == "HEAD":
            raise ValueError
        return _REF.validate_python(text)
    except ValueError:  # pydantic's too
        raise InvalidInputError(
            f"{text[:100]!r} can't be the name of a branch: use letters, digits, '-', '_', '.' and "
            "'/' only.",
            field=f"{FIELD}.push.branch",
        ) from None
