"""From errors to exit codes and lines."""

import pytest

from celeriac.cli.core.context import server_errors
from celeriac.cli.core.output import CommandError, ExitCode, exit_code_of, report_of
from celeriac.client import ClientError, UnreachableError, WaitTimeoutError
from celeriac.domain import errors
from celeriac.embedded.errors import StopRequestedError
from celeriac.wire import ProblemField


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidInputError("x"), ExitCode.USAGE),
        (errors.VariablesInvalidError("x"), ExitCode.USAGE),
        (errors.ConfigurationError("x"), ExitCode.USAGE),
        (errors.NotFoundError("task", "x"), ExitCode.NOT_FOUND),
        (errors.UnauthenticatedError("x"), ExitCode.DENIED),
        (errors.ForbiddenError("x"), ExitCode.DENIED),
        (errors.DatabaseUnavailableError("x"), ExitCode.UNAVAILABLE),
        (errors.BrokerUnavailableError("x"), ExitCode.UNAVAILABLE),
        (StopRequestedError("x"), ExitCode.INTERRUPTED),
        (errors.ConflictError("x"), ExitCode.FAILED),
        (CommandError("x", exit_code=ExitCode.DENIED), ExitCode.DENIED),
    ],
)
def test_exit_codes_of_our_own_errors(error: errors.CeleriacError, code: ExitCode) -> None:
    assert exit_code_of(error) is code


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, ExitCode.USAGE),
        (422, ExitCode.USAGE),
        (401, ExitCode.DENIED),
        (403, ExitCode.DENIED),
        (404, ExitCode.NOT_FOUND),
        (409, ExitCode.FAILED),
        (500, ExitCode.FAILED),
        (503, ExitCode.UNAVAILABLE),
    ],
)
def test_exit_codes_of_what_the_server_says(status: int, code: ExitCode) -> None:
    assert server_errors(ClientError("x", code="y", status=status)).exit_code is code


def test_a_server_that_is_away_is_unavailable_and_a_wait_that_is_over_failed() -> None:
    away = server_errors(UnreachableError("http://h", OSError("refused")))
    assert away.exit_code is ExitCode.UNAVAILABLE
    assert server_errors(WaitTimeoutError("run", "id", 5)).exit_code is ExitCode.FAILED


def test_an_error_is_one_line_with_its_code_and_a_cure() -> None:
    lines = list(report_of(CommandError("It broke.", cure="Mend it.", problem="broken")).lines())
    assert lines == ["error: It broke. [broken]", "       Mend it."]


def test_the_fields_that_are_wrong_are_listed() -> None:
    error = ClientError(
        "2 fields are wrong.",
        code="invalid_input",
        status=422,
        fields=[
            ProblemField(field="spec.a", message="is missing"),
            ProblemField(field="spec.b", message="must be a number"),
        ],
    )
    assert list(report_of(server_errors(error)).lines()) == [
        "error: 2 fields are wrong. [invalid_input]",
        "       spec.a: is missing",
        "       spec.b: must be a number",
    ]


def test_fields_that_the_message_names_are_not_shown_twice() -> None:
    fields = [ProblemField(field=f"spec.{name}", message="is missing") for name in "ab"]
    named = "spec.a: is missing; spec.b: is missing"
    listed = ["       spec.a: is missing", "       spec.b: is missing"]

    def lines(message: str, **details: object) -> list[str]:
        error = ClientError(message, code="x", status=422, fields=fields, details=details)
        return list(report_of(server_errors(error)).lines())

    assert lines(named) == ["error: 2 fields are wrong. [x]", *listed]
    assert lines(f"{named}; and 58 more", faults=60) == ["error: 60 fields are wrong. [x]", *listed]
    begun = lines(f"The workflow can't be run. {named}")
    assert begun == ["error: The workflow can't be run. 2 fields are wrong. [x]", *listed]
    located = "Nothing was changed.\ncrew.yaml:3: a is missing\ncrew.yaml:4: b is missing"
    assert "\n".join(lines(located)).count("is missing") == 2


def test_known_problems_get_a_cure() -> None:
    told = server_errors(ClientError("Switched off.", code="task_inactive", status=409))
    assert list(report_of(told).lines())[1].strip().startswith("`celeriac tasks activate")
