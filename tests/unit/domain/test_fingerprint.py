"""Fingerprints: the same cause has the same one, whatever differs between two runs of it."""

import textwrap
import traceback
from collections.abc import Callable
from functools import partial
from types import CodeType
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeriac.domain.fingerprint import fingerprint, normalised_line

ANY = "agent_failed"
CODE = """
def load(n, fail):
    return load(n - 1, fail) if n else parse(fail)

def parse(fail):
    raise fail

def causes(fail):
    try:
        load(0, fail)
    except Exception as error:
        raise RuntimeError("it failed") from error

def while_handling(fail):
    try:
        raise KeyError("first")
    except KeyError:
        load(0, fail)
"""


def compiled(source: str, file: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    code: CodeType = compile(source, file, "exec")
    exec(code, names)  # a program whose file and lines vary
    return names


def failure(call: Callable[[], object], message: str | None = None) -> str:
    """Return the fingerprint of what `call` raises, as it is stored."""
    try:
        call()
    except Exception as error:  # noqa: BLE001 - any
        details = {
            "type": type(error).__name__,
            "traceback": "".join(traceback.format_exception(error)),
        }
        return fingerprint(ANY, str(error) if message is None else message, details)
    raise AssertionError("nothing was raised")


def of_message(message: str, kind: str = "ValueError") -> str:
    return fingerprint(ANY, message, {"type": kind})


@pytest.mark.requirement("F19")
@given(
    lines=st.integers(0, 40),
    depth=st.integers(0, 30),
    message=st.text(max_size=50),
    place=st.sampled_from(["/srv/a/billing.py", "/opt/release-7/jobs/billing.py", "billing.py"]),
)
def test_moved_lines_recursion_messages_and_places_change_nothing(
    lines: int, depth: int, message: str, place: str
) -> None:
    usual = compiled(CODE, "/app/billing.py")
    moved = compiled("#\n" * lines + CODE, place)
    first = failure(lambda: usual["load"](1, ValueError("customer 7")))
    assert failure(lambda: moved["load"](depth + 1, ValueError(message))) == first
    assert first.startswith("1:")


@pytest.mark.requirement("F19")
@given(names=st.lists(st.from_regex(r"[a-z]{1,8}_f", fullmatch=True), min_size=2, max_size=2))
def test_other_functions_and_classes_are_other_failures(names: list[str]) -> None:
    keys = set()
    for name in names:
        for kind in (ValueError, KeyError):
            program = compiled(f"def {name}(fail):\n    raise fail\n", "/app/billing.py")
            keys.add(failure(partial(program[name], kind(1))))
    assert len(keys) == 2 * len(set(names))


def test_the_innermost_cause_decides_and_what_was_handled_meanwhile_does_not() -> None:
    program = compiled(CODE, "/app/billing.py")

    def of(name: str, error: Exception) -> str:
        return failure(lambda: program[name](error))

    assert of("causes", ValueError(1)) == of("causes", ValueError(2))
    assert of("causes", ValueError(1)) != of("causes", KeyError(1))
    assert of("while_handling", ValueError(1)) != of("while_handling", KeyError(1))
    grouped = textwrap.dedent("""
        def main(fail):
            try:
                raise fail
            except Exception as error:
                raise ExceptionGroup("several", [error])
    """)
    group = compiled(grouped, "/app/billing.py")
    assert failure(lambda: group["main"](ValueError(1))) == failure(
        lambda: group["main"](ValueError(2))
    )


@pytest.mark.requirement("F19")
@given(id_=st.uuids(), number=st.integers(), name=st.from_regex(r"[a-z]{1,9}", fullmatch=True))
def test_ids_numbers_and_quoted_texts_change_nothing(id_: UUID, number: int, name: str) -> None:
    def text(id_: UUID, number: int, name: str) -> str:
        return (
            f"no lead {id_} of {name}@example.com ('{name}') at https://{name}.example/{id_}: "
            f"{number} of 10.5 s, 2026-11-{number % 28 + 1:02} at 10.0.0.{number % 256}"
        )

    usual = text(UUID(int=1), 7, "ada")
    assert of_message(text(id_, number, name)) == of_message(usual)
    assert of_message("no order" + usual[7:]) != of_message(usual)
    assert of_message(usual, "LookupError") != of_message(usual)
    assert of_message(f"{usual}\nsecond line {name}") == of_message(usual)


def test_codes_of_their_own_and_chosen_fingerprints_come_first() -> None:
    refused = {"type": "ProviderRefusedError", "provider": "openai", "traceback": "…"}
    assert fingerprint("provider_refused", "no 1", refused) == "1:provider_refused:openai"
    assert fingerprint("worker_lost", "of host-1", {}) == "1:worker_lost"
    chosen = {"fingerprint": "stale price list", "type": "ValueError"}
    assert fingerprint(ANY, "a", chosen) == fingerprint("output_invalid", "b", dict(chosen))
    assert fingerprint(ANY, "a", {**chosen, "fingerprint": " "}) == of_message("a")


@given(
    message=st.text(max_size=5_000),
    details=st.dictionaries(
        st.sampled_from(["type", "traceback", "fingerprint", "provider"]),
        st.one_of(st.text(), st.integers(), st.none(), st.lists(st.text())),
    ),
)
def test_anything_has_a_short_fingerprint(message: str, details: dict[str, Any]) -> None:
    for code in (ANY, "provider_error"):
        assert len(fingerprint(code, message, details)) <= 220
    assert len(normalised_line(message)) <= 200
