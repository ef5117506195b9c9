"""The pure parts of talking with child processes."""

import signal
from pathlib import Path

import pytest

from celeriac.agents.child.confinement import Confinement
from celeriac.agents.child.errors import crash_of, error_of
from celeriac.agents.child.protocol import (
    MAX_LINE,
    MAX_LINE_BYTES,
    ErrorReport,
    LineSplitter,
    RunMessage,
    StepMessage,
    UsageMessage,
    encode_line,
    parse_line,
)
from celeriac.domain.environment import EnvironmentRule
from celeriac.domain.errors import (
    AgentMisconfiguredError,
    ChildProtocolError,
    MemoryLimitError,
    PermanentError,
    ProviderRateLimitedError,
    RetryableError,
)
from celeriac.domain.usage import ModelCall
from celeriac.kit.child_bootstrap import CANNOT_EXECUTE, CANNOT_GUARD
from celeriac.kit.processes import UserIds
from celeriac.kit.users import ChildUser
from celeriac.logs.masks import Masker


def test_lines_are_cut_wherever_chunks_end() -> None:
    splitter = LineSplitter()

    assert splitter.feed(b"one\ntw") == ["one"]
    assert splitter.feed(b"o\r\n\nthree") == ["two"], "without line ends and empty lines"
    assert splitter.rest() == ["three"]
    assert splitter.rest() == []


def test_endless_lines_come_in_pieces() -> None:
    splitter = LineSplitter()

    pieces = splitter.feed(b"x" * (2 * MAX_LINE + 1))

    assert pieces == ["x" * MAX_LINE + "…", "…" + "x" * MAX_LINE + "…"]
    assert splitter.feed(b"\nnext\n") == ["…x", "next"]


def test_no_piece_ends_within_a_character() -> None:
    pieces = LineSplitter().feed(b"x" + "ü".encode() * MAX_LINE + b"\n")

    assert "".join(each.strip("…") for each in pieces) == "x" + "ü" * MAX_LINE


@pytest.mark.requirement("F25")
@pytest.mark.parametrize("before", [0, 1, MAX_LINE - 20, MAX_LINE - 3])
def test_a_value_in_a_long_line_is_masked_in_each_of_its_pieces(before: int) -> None:
    value = "".join(f"{number:05d}ü" for number in range(4_000))  # longer than a piece
    for secret in (value, value[:40]):
        splitter, masker = LineSplitter(), Masker([secret])
        line = f"{'x' * before}{secret} end\n".encode()
        pieces = [
            piece for at in range(0, len(line), 999) for piece in splitter.feed(line[at : at + 999])
        ]
        shown = "".join(masker.text(each) for each in pieces)
        assert len(shown.replace("x", "").replace("***", "").replace("…", "")) <= len(" end") + 3


def test_bytes_that_are_no_text_are_shown() -> None:
    assert LineSplitter().feed(b"a\xff\0b\n") == ["a\\xff\\x00b"]


@pytest.mark.parametrize(
    ("kind", "what", "cure"),
    [
        ("start", "The job has 16,777,2.. bytes", "Make its variables smaller"),
        ("ran", "The reply 'ran' has 16,777,2.. bytes", "executions that it waits for return less"),
    ],
)
def test_a_message_that_is_too_long_is_named_with_the_cure(kind: str, what: str, cure: str) -> None:
    with pytest.raises(ChildProtocolError, match=f"^{what} .*{cure}"):
        encode_line({"type": kind, "data": "x" * MAX_LINE_BYTES})


def test_usage_becomes_a_model_call() -> None:
    message = parse_line(
        b'{"type": "usage", "provider": "p", "model": "m", "input_tokens": 1, "output_tokens": 2}'
    )

    assert isinstance(message, UsageMessage)
    assert message.model_call() == ModelCall("p", "m", input_tokens=1, output_tokens=2)


@pytest.mark.parametrize(
    "until", ["9999-12-31T23:59:59-23:00", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00+23:00"]
)
def test_times_that_the_database_cannot_give_back_are_refused(until: str) -> None:
    with pytest.raises(ChildProtocolError, match="until needs a year from 1970 to 9000"):
        parse_line(f'{{"type": "sleep", "name": "s", "until": "{until}"}}'.encode())


def test_names_of_steps_can_be_stored() -> None:
    step = parse_line(rb'{"type": "step", "name": "a\u0000"}')
    run = parse_line(rb'{"type": "run", "name": "a", "task": "b\u0000", "items": []}')

    assert isinstance(step, StepMessage)
    assert isinstance(run, RunMessage)
    assert (step.name, run.task) == ("a\ufffd", "b\ufffd")


def test_known_codes_become_their_own_errors() -> None:
    report = ErrorReport(type="MemoryError", message="too much", code="memory_limit")

    assert isinstance(error_of(report), MemoryLimitError)


def test_a_rate_limit_keeps_its_wish() -> None:
    error = error_of(
        ErrorReport(type="X", message="slow down", code="provider_rate_limited", retry_after=7)
    )

    assert isinstance(error, ProviderRateLimitedError)
    assert error.retry_after == 7


@pytest.mark.parametrize(("retryable", "kind"), [(True, RetryableError), (False, PermanentError)])
@pytest.mark.parametrize("code", [None, "shop_closed"])
def test_other_errors_keep_their_code_type_and_traceback(
    retryable: bool, kind: type[RetryableError | PermanentError], code: str | None
) -> None:
    error = error_of(
        ErrorReport(type="E", message="m", traceback="t", code=code, retryable=retryable)
    )

    assert isinstance(error, kind)
    assert error.code == (code or kind.code)
    assert error.details == {"type": "E", "traceback": "t"}


@pytest.mark.parametrize(
    ("returncode", "stderr", "message"),
    [
        (3, ["a", "b", ""], "exited with code 3 and no result; its last line on stderr: b"),
        (0, [], "exited with code 0 and no result."),
        (
            CANNOT_GUARD,
            ["cannot set up x: why"],
            "could not be started; its last line on stderr: cannot",
        ),
        (
            CANNOT_EXECUTE,
            ["cannot run x: why"],
            "could not be started; its last line on stderr: cannot",
        ),
        (CANNOT_EXECUTE, ["sh: x: not found"], "exited with code 127 and no result"),
        (-signal.SIGKILL, [], "was killed by SIGKILL, not by Celeriac"),
        (-signal.SIGSEGV, [], "was killed by SIGSEGV (it had a memory limit of 64 MB)."),
        (-77, [], "was killed by signal 77."),
    ],
)
def test_the_end_of_a_child_is_described(returncode: int, stderr: list[str], message: str) -> None:
    error = crash_of(returncode, stderr, memory_mb=64)

    assert message in error.message
    assert error.details["exit_code"] == returncode


RESERVED = frozenset({"OPENAI_API_KEY", "CRM_AUTHORIZATION", "DATABASE_URL", "REDIS_URL"})
WORKER = {
    "PATH": "/bin",
    "LC_ALL": "C",
    "HOME": "/root",
    "USER": "root",
    "SHOP_URL": "x",
    "SHOP_TOKEN": "y",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "CRM_AUTHORIZATION": "secret",
    "DATABASE_URL": "postgresql://secret",
    "OPENAI_API_KEY": "secret",
    "CELERIAC_SECRET_KEY": "secret",
    "openai_api_key": "secret",
}


def test_a_child_sees_what_programs_need_and_what_is_named() -> None:
    bounds = Confinement(WORKER, EnvironmentRule(("SHOP_*", "NOT_SET"), RESERVED))

    seen = bounds.environment(["SHOP_URL", "NOT_SET"], home=Path("/work"))

    plain = {"PATH": "/bin", "LC_ALL": "C", "HOME": "/root", "USER": "root"}
    assert seen == {**plain, "SHOP_URL": "x"}
    assert bounds.environment(home=Path("/work")) == plain
    assert "secret" not in repr(bounds)


def test_a_child_of_another_user_gets_that_users_variables() -> None:
    user = ChildUser("celeriac-agent", UserIds(1234, 1234))
    bounds = Confinement(WORKER, EnvironmentRule(("HOME",)), user)

    seen = bounds.environment(home=Path("/work"))

    assert seen == {
        "PATH": "/bin",
        "LC_ALL": "C",
        "HOME": "/work",
        "USER": "celeriac-agent",
        "LOGNAME": "celeriac-agent",
        "SHELL": "/bin/sh",
    }


@pytest.mark.parametrize(
    "name",
    [
        "CELERIAC_SECRET_KEY",
        "celeriac_secret_key",
        "CELERIAC_ANYTHING",
        "CELERY_BROKER_URL",
        "DATABASE_URL",
        "REDIS_URL",
        "OPENAI_API_KEY",
        "openai_api_key",
        "OpenAI_Api_Key",
        "CRM_AUTHORIZATION",
    ],
)
def test_a_child_never_sees_what_configures_celeriac(name: str) -> None:
    bounds = Confinement(WORKER, EnvironmentRule(("*", name), RESERVED))
    with pytest.raises(AgentMisconfiguredError, match=f"names {name}, which configures") as raised:
        bounds.environment(["SHOP_URL", name], home=Path("/work"))
    assert raised.value.details["field"] == "environment"
    assert not raised.value.retryable


@pytest.mark.parametrize("allowed", [(), ("SHOP_URL",), ("shop_token",), ("SHOP",), ("?HOP",)])
def test_a_child_sees_nothing_that_no_administrator_lists(allowed: tuple[str, ...]) -> None:
    bounds = Confinement(WORKER, EnvironmentRule(allowed, RESERVED))
    for name in ("SHOP_TOKEN", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "HOME"):
        with pytest.raises(AgentMisconfiguredError, match=f"{name}.*CELERIAC_AGENT_ENVIRONMENT"):
            bounds.environment([name], home=Path("/work"))
