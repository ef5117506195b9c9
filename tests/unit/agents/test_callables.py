"""From `module:function` to a call."""

import sys
from pathlib import Path
from typing import Any

import pytest

from celeriac.agents.python.functions import declared_modules, find_function
from celeriac.domain.errors import AgentMisconfiguredError, SoftTimeLimit, VariablesInvalidError
from tests.support.run_context import FUNCTIONS


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("no_such_package.agents:run", "finds no module 'no_such_package'"),
        (f"{FUNCTIONS}.deeper:run", "finds no module 'tests.support.agent_functions.deeper'"),
        (f"{FUNCTIONS}:scor", "has no 'scor'; did you mean 'score'"),
        (f"{FUNCTIONS}:FUNCTIONS", "has no 'FUNCTIONS'"),
        (f"{FUNCTIONS}:Lead", "Lead is ModelMetaclass, not a function"),
        (f"{FUNCTIONS}:Path", "Path is type, not a function"),
        (f"{FUNCTIONS}:generate", "it is a generator"),
        (f"{FUNCTIONS}:positional", "variables are passed by name, but name: str can't be"),
        (f"{FUNCTIONS}:unmakeable", "the type of thing can't be converted from JSON"),
    ],
)
def test_what_cannot_be_run_is_explained(path: str, reason: str) -> None:
    with pytest.raises(AgentMisconfiguredError) as raised:
        find_function(path, (FUNCTIONS, "no_such_package"))

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
        find_function(f"{module}:run", [module])

    assert reason.format(module=module) in raised.value.message


@pytest.mark.parametrize(
    "name", ["sideeffect", "sideeffect.inner", "os", "antigravity", "setuptools", FUNCTIONS]
)
@pytest.mark.parametrize("allowed", [(), ("side", "sideeffects", "sideeffect.other", "tests.unit")])
def test_only_allowed_modules_are_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, allowed: tuple[str, ...]
) -> None:
    effect = tmp_path / "effect"
    package = tmp_path / "sideeffect"
    package.mkdir()
    for file in ("__init__.py", "inner.py"):
        (package / file).write_text(f"open({str(effect)!r}, 'w')\ndef run(): ...\n")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(AgentMisconfiguredError) as raised:
        find_function(f"{name}:not_offered", allowed)

    assert f"{name} is not among the modules that agents may use" in raised.value.message
    assert "CELERIAC_AGENT_MODULES" in raised.value.message
    assert not effect.exists()
    assert "sideeffect" not in sys.modules


_IN_THE_IMPORT = "raise SoftTimeLimit('late')"
_IN_A_HINT = """
class Late:
    def __class_getitem__(cls, _):
        raise SoftTimeLimit('late')

def run(a: 'Late[int]'): ...
"""


@pytest.mark.parametrize("text", [_IN_THE_IMPORT, _IN_A_HINT])
def test_a_time_limit_that_passes_in_the_import_is_no_fault_of_the_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    name = f"late_{len(text)}"
    (tmp_path / f"{name}.py").write_text(f"from celeriac import SoftTimeLimit\n{text}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SoftTimeLimit, match="late"):
        find_function(f"{name}:run", [name])


def test_what_a_module_has_only_imported_is_not_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "borrowing.py").write_text("from subprocess import run\nfrom os import system\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("run", "system"):
        with pytest.raises(AgentMisconfiguredError, match=f"{name} comes from "):
            find_function(f"borrowing:{name}", ["borrowing"])


def test_installed_packages_declare_modules_by_entry_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "declared-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: declared\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(
        "[celeriac.agents]\nshop = declared_shop.agents\nscore = declared_office:score\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert set(declared_modules()) >= {"declared_shop.agents", "declared_office"}


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
