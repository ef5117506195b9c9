"""From `module:function` to a call."""

from pathlib import Path
from typing import Any

import pytest

from celeriac.agents.python.callables import find_function
from celeriac.domain.errors import AgentMisconfiguredError, VariablesInvalidError
from tests.support.run_context import FUNCTIONS


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("no_such_package.agents:run", "finds no module 'no_such_package'"),
        (f"{FUNCTIONS}.deeper:run", "finds no module 'tests.support.agent_functions.deeper'"),
        (f"{FUNCTIONS}:scor", "has no 'scor'; did you mean 'score'"),
        (f"{FUNCTIONS}:FUNCTIONS", "has no 'FUNCTIONS'"),
        (f"{FUNCTIONS}:Lead", "Lead is ModelMetaclass, not a function"),
        (f"{FUNCTIONS}:not_offered", "Decorate it with @celeriac.agent"),
        (f"{FUNCTIONS}:generate", "it is a generator"),
        (f"{FUNCTIONS}:positional", "variables are given by name, but name: str can't be"),
        (f"{FUNCTIONS}:unmakeable", "the type of thing can't be made from JSON"),
        ("os:system", "standard library"),
        ("antigravity:run", "standard library"),
    ],
)
def test_what_cannot_be_run_is_explained(path: str, reason: str) -> None:
    with pytest.raises(AgentMisconfiguredError) as raised:
        find_function(path, ())

    assert reason in raised.value.message
    assert repr(path) in raised.value.message
    assert raised.value.details["field"] == "function"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import no_such_dependency", "importing {module} failed: No module named 'no_such_dep"),
        ("1 / 0", "importing {module} failed: ZeroDivisionError"),
        ("raise SystemExit(1)", "importing {module} failed: SystemExit"),
    ],
)
def test_a_module_that_fails_to_import_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, reason: str
) -> None:
    module = f"broken_{abs(hash(source))}"
    (tmp_path / f"{module}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(AgentMisconfiguredError) as raised:
        find_function(f"{module}:run", ())

    assert reason.format(module=module) in raised.value.message


@pytest.mark.parametrize("allowed", [FUNCTIONS, "tests.support", "tests"])
def test_functions_of_an_allowed_package_need_no_decorator(allowed: str) -> None:
    assert find_function(f"{FUNCTIONS}:not_offered", [allowed]).takes_any


@pytest.mark.parametrize("allowed", ["tests.support.agent", "support", ""])
def test_a_name_that_only_begins_alike_allows_nothing(allowed: str) -> None:
    with pytest.raises(AgentMisconfiguredError):
        find_function(f"{FUNCTIONS}:not_offered", [allowed])


def test_coroutines_and_contexts_are_recognised() -> None:
    greet = find_function(f"{FUNCTIONS}:greet", ())
    score = find_function(f"{FUNCTIONS}:score", ())

    assert (greet.is_coroutine, greet.wants_context) == (True, True)
    assert (score.is_coroutine, score.wants_context) == (False, False)


@pytest.mark.parametrize(
    ("variables", "faults"),
    [
        ({}, ["lead is missing"]),
        ({"lead": {}}, ["lead.company: Field required"]),
        ({"lead": {"company": "A"}, "x": 1}, ["x is not a parameter of the function"]),
        ({"lead": {"company": "A"}, "ctx": 1}, ["ctx is not a parameter of the function"]),
    ],
)
def test_variables_that_do_not_fit_are_named(variables: dict[str, Any], faults: list[str]) -> None:
    with pytest.raises(VariablesInvalidError) as raised:
        find_function(f"{FUNCTIONS}:score", ()).arguments(variables, None)

    assert raised.value.details["faults"] == faults
    assert raised.value.field == "variables"


def test_a_function_for_anything_gets_everything_but_the_reserved_name() -> None:
    function = find_function(f"{FUNCTIONS}:echo", ())

    assert function.arguments({"a": 1, "b": [2]}, None) == {"a": 1, "b": [2]}
    with pytest.raises(VariablesInvalidError):
        function.arguments({"ctx": 1}, None)
