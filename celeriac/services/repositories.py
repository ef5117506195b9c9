"""Whether a task, and an execution of it, may use a repository."""

from collections.abc import Sequence
from dataclasses import dataclass

from celeriac.domain.errors import InvalidInputError
from celeriac.domain.executions.options import RunOptions
from celeriac.domain.repositories import Repository, RepositoryRule
from celeriac.domain.tasks import TaskSpec
from celeriac.kit.outbound import OutboundGuard, refusal


@dataclass(frozen=True, slots=True)
class RepositoryCheck:
    """What is allowed for the repositories of tasks on this installation."""

    rule: RepositoryRule
    guard: OutboundGuard

    def __call__(self, task: TaskSpec) -> None:
        """Raise InvalidInputError if the task's own repository may not be used."""
        if task.repository is not None:
            check_allowed(self.rule, self.guard, task.repository, "spec.repository")


def check_repository(
    rule: RepositoryRule, guard: OutboundGuard, task: TaskSpec, options: RunOptions
) -> None:
    """Raise InvalidInputError if the execution may not have its repository."""
    check_choice(task, options)
    repository = options.applied(task).repository
    if repository is not None:
        check_allowed(rule, guard, repository, "repository")


def check_each(
    rule: RepositoryRule, guard: OutboundGuard, task: TaskSpec, options: Sequence[RunOptions]
) -> None:
    """Raise InvalidInputError for the first item of a batch that may not have its repository."""
    known: RunOptions | None = None
    for index, each in enumerate(options):
        if each == known:
            continue
        try:
            check_repository(rule, guard, task, each)
        except InvalidInputError as error:
            field = (error.field or "").removeprefix("repository").removeprefix(".")
            place = f"repositories.{index}.{field}".removesuffix(".")
            message = f"Item {index}: {error.message}"
            raise InvalidInputError(message, **{**error.details, "field": place}) from error
        known = each


def check_choice(task: TaskSpec, options: RunOptions) -> None:
    """Raise InvalidInputError if the execution chooses what its task does not leave open."""
    choice = options.repository
    if choice is not None:
        if task.repository is None:
            raise InvalidInputError(
                "The task has no repository; leave it out, or give the task one.",
                field="repository",
            )
        field = task.repository.refused(choice)
        if field is not None:
            open_fields = ", ".join(task.repository.overrides) or "nothing"
            raise InvalidInputError(
                f"The task does not leave {field} to its executions; its repository.overrides has: "
                f"{open_fields}.",
                field=f"repository.{field}",
            )


def check_allowed(
    rule: RepositoryRule, guard: OutboundGuard, repository: Repository, field: str
) -> None:
    """Raise InvalidInputError for a repository that an administrator or the guard does not allow.

    Names of hosts are resolved by the worker, which checks their addresses.
    """
    fault = rule.refusal(repository)
    if fault is not None:
        raise InvalidInputError(fault, field=field)
    if repository.git.startswith("https://") and (fault := refusal(guard, repository.git)):
        raise InvalidInputError(f"The repository's URL {fault}.", field=f"{field}.git")
