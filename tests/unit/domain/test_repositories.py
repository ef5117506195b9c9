"""URLs, refs and paths of repositories: what git could take for something else is refused."""

from uuid import UUID

import pytest
from pydantic import ValidationError

from celeriac.domain.errors import InvalidInputError, TemplateInvalidError, TemplateRenderError
from celeriac.domain.executions.options import RunOptions
from celeriac.domain.prompts import WorkLimit
from celeriac.domain.publishing import (
    NewPullRequest,
    Publication,
    check_publication,
    publication_of,
)
from celeriac.domain.repositories import Repository, RepositoryChoice, RepositoryRule
from celeriac.domain.tasks import TaskSpec
from celeriac.kit.json_types import JsonObject

pytestmark = pytest.mark.requirement("F26")

GOOD = "https://git.example.com/acme/shop.git"


@pytest.mark.parametrize(
    "url",
    [
        GOOD,
        "https://git.example.com:8443/~user/x",
        "ssh://git@git.example.com:22/acme/shop.git",
        "file:///srv/git/shop.git",
        "https://git.example.com/acme/the%20shop",
    ],
)
def test_plain_urls_are_taken(url: str) -> None:
    assert Repository(git=url).git == url


@pytest.mark.parametrize(
    "url",
    [
        "", "shop", "/srv/git/shop", "../shop", "-uupload", "--upload-pack=touch /tmp/x",
        "ext::sh -c touch% /tmp/x", "fd::3", "git::ext::x", "http://git.example.com/x",
        "git://git.example.com/x", "ftp://git.example.com/x", "HTTPS://git.example.com/x",
        "git@git.example.com:acme/x", "https://user:pass@git.example.com/x",
        "https://token@git.example.com/x", "https:///x", "https://git.example.com",
        "https://-oProxyCommand=x/y", "ssh://-oProxyCommand=x/y", "ssh://-l@git.example.com/x",
        "ssh://git@-oProxyCommand=x/y", "https://git.example.com/x?y=1", "https://git.example.com/x#y",
        "https://git.example.com/../x", "file:///srv/../etc", "file://host/srv", "file:///-x",
        "https://git.example.com/a/-x", "https://git.example.com//x", "https://[::1]/x",
        "https://git.example.com/x y", "https://git.example.com/x\n", "https://git.example.com/x;y",
        "https://git.example.com/%2e%2E/x", "file:///srv/..%2fetc", "https://git.example.com/%252e/x",
        "file:///srv/a%00b", "file:///srv/%0a", "https://git.example.com/%ff", "file:///a/%2dx",
        "https://git.example.com/x$(y)", "https://git.example.com\\@evil/x", "file:///a\0b",
    ],
)  # fmt: skip
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ValidationError, match=r"git"):
        Repository(git=url)


@pytest.mark.parametrize("ref", ["main", "release/2.1", "v1.0", "a" * 40, "feature/x+y@2"])
def test_plain_refs_are_taken(ref: str) -> None:
    assert Repository(git=GOOD, ref=ref).ref == ref


@pytest.mark.parametrize(
    "ref",
    [
        "", "-x", "--upload-pack=x", "a..b", "a@{1}", "a^", "a~1", "a:b", "a b", "a\n", "/a", "a/",
        "a//b", ".a", "a/.b", "a.lock", "a.lock/b", "a.", "+a", "*", "a\\b", "a[", "@",
    ],
)  # fmt: skip
def test_other_refs_are_refused(ref: str) -> None:
    with pytest.raises(ValidationError, match=r"ref"):
        RepositoryChoice(ref=ref)


@pytest.mark.parametrize(
    "path", ["", "/etc", "..", "a/../b", "./a", "a//b", ".git", "a/.GIT", "-a", "a\nb", "a/"]
)
def test_paths_stay_in_the_repository(path: str) -> None:
    with pytest.raises(ValidationError, match=r"path"):
        Repository(git=GOOD, path=path)
    assert Repository(git=GOOD, path="packages/shop front").path == "packages/shop front"


@pytest.mark.parametrize(
    ("prefix", "allowed"),
    [
        ("https://", True),
        ("https://git.example.com", True),
        ("https://git.example.com/acme", True),
        ("https://git.example.com/acme/", True),
        (GOOD, True),
        ("https://git.example.com/acm", False),
        ("https://git.example", False),
        ("ssh://", False),
        ("https://git.example.com/acme/shop", False),
    ],
)
def test_prefixes_end_at_a_slash(prefix: str, allowed: bool) -> None:
    refusal = RepositoryRule(allow=(prefix,)).refusal(Repository(git=GOOD))
    assert (refusal is None) is allowed
    assert RepositoryRule(allow=()).refusal(Repository(git=GOOD)) is not None


def test_commands_need_confinement_or_an_administrators_word() -> None:
    repository = Repository(git=GOOD, verify=["make test"])
    refusal = RepositoryRule(commands=False).refusal(repository)
    assert refusal is not None
    assert "CELERIAC_REPOSITORIES_COMMANDS" in refusal
    assert RepositoryRule().refusal(repository) is None


def test_an_execution_chooses_what_its_task_leaves_open() -> None:
    task = TaskSpec(repository=Repository(git=GOOD, ref="main", path="a"))
    repository = task.repository
    assert repository is not None
    assert repository.refused(RepositoryChoice(ref="x")) is None
    assert repository.refused(RepositoryChoice(ref="x", path="b")) == "path"
    assert repository.refused(RepositoryChoice(git=GOOD)) == "git"
    options = RunOptions(repository=RepositoryChoice(ref="x"))
    assert options.applied(task).repository == repository.model_copy(update={"ref": "x"})
    assert options.applied(TaskSpec()).repository is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"secret": "s", "git": "ssh://git@git.example.com/x"}, "secret is for https:// only"),
        ({"secret": "s", "overrides": ["git"]}, "overrides can't have git"),
        ({"push": True}, "push needs a secret"),
        ({"push": True, "git": "file:///srv/git/shop.git"}, "push is for https:// only"),
        ({"secret": "s", "pull_request": {}}, "pull_request needs push"),
        (
            {"secret": "s", "push": True, "pull_request": {}, "git": "https://h/a/b/c"},
            "form https://HOST/OWNER/NAME",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Repository.model_validate({"git": GOOD, **fields})


def published(variables: JsonObject, **fields: object) -> Publication | None:
    repository = Repository.model_validate({"git": GOOD, "secret": "s", **fields})
    with WorkLimit() as work:
        return publication_of(
            repository, variables, work, execution_id=UUID(int=5), task="fix", agent="coder"
        )


def test_the_texts_of_a_publication() -> None:
    assert published({}) is None
    plain = published({}, push=True)
    assert plain == Publication(f"celeriac/{UUID(int=5)}", True, False, None)
    fields = {"push": {"branch": "fix/{{ n }}"}, "pull_request": {"title": "Fixes {{ n }}\nx"}}
    request = NewPullRequest("Fixes 7", f"Execution {UUID(int=5)}", None, False)
    assert published({"n": 7}, **fields) == Publication("fix/7", False, False, request)
    default = published({}, push=True, pull_request={})
    assert default is not None
    assert default.pull_request is not None
    assert default.pull_request.title == "fix: work of coder"


@pytest.mark.parametrize(
    ("fields", "n", "field"),
    [
        ({"push": {"branch": "{{ n }}"}}, "a b", "repository.push.branch"),
        ({"push": {"branch": "{{ n }}"}}, "-x", "repository.push.branch"),
        ({"push": {"branch": "{{ n }}"}}, "a..b", "repository.push.branch"),
        ({"push": {"branch": "{{ n }}"}}, "HEAD", "repository.push.branch"),
        ({"push": {"branch": "{{ n }}"}, "ref": "dev"}, "dev", "repository.push.branch"),
        (
            {"push": {"branch": "{{ n }}"}, "pull_request": {"base": "dev"}},
            "dev",
            "repository.pull_request.base",
        ),
        (
            {"push": {"branch": "{{ n }}", "existing": True}, "ref": "dev", "pull_request": {}},
            "dev",
            "repository.pull_request.base",
        ),
    ],
)
def test_a_branch_that_can_not_be_pushed_is_refused(
    fields: dict[str, object], n: str, field: str
) -> None:
    with pytest.raises(InvalidInputError) as caught:
        published({"n": n}, **fields)
    assert caught.value.field == field


def test_the_branch_that_is_checked_out_may_be_merged_into_another_one() -> None:
    fields = {"push": {"branch": "dev", "existing": True}, "ref": "dev"}
    found = published({}, **fields, pull_request={"base": "main"})
    assert found is not None
    assert (found.branch, found.existing) == ("dev", True)


def test_templates_name_their_place() -> None:
    schema: JsonObject = {"properties": {"n": {}}}
    fields = {"push": {"branch": "{{ n }}/{{ task }}"}, "pull_request": {"body": "{{ m }}"}}
    repository = Repository.model_validate({"git": GOOD, "secret": "s", **fields})
    with pytest.raises(TemplateInvalidError, match="reads m") as caught:
        check_publication(repository, schema)
    assert caught.value.field == "spec.repository.pull_request.body"
    assert caught.value.message.startswith("spec.repository.pull_request.body: ")
    check_publication(repository, {})


@pytest.mark.parametrize("branch", ["main..x", "fix 3", "/x", "x.lock", "HEAD"])
def test_a_branch_without_variables_is_refused_with_its_task(branch: str) -> None:
    repository = Repository.model_validate({"git": GOOD, "secret": "s", "push": {"branch": branch}})
    with pytest.raises(InvalidInputError, match=r"leave out '\.\.'") as caught:
        check_publication(repository, {})
    assert caught.value.field == "spec.repository.push.branch"


def test_a_missing_variable_names_the_text_that_reads_it() -> None:
    fields = {"push": {"branch": "fix/{{ issue }}"}}
    with pytest.raises(TemplateRenderError, match=r"^repository\.push\.branch: .*'issue'"):
        published({}, **fields)
