"""Which functions modules on this machine offer."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from celeriac.agents.python import functions
from celeriac.cli.catalog.functions import functions_in, hint_for, unlisted
from celeriac.cli.core.output import UsageProblemError

OFFERED = '''\
import celeriac
from celeriac import agent


@celeriac.agent("offered-score")
async def score(ctx: celeriac.AgentContext, company: str, size: int = 1) -> int:
    """Score a lead
    by its size.

    More than that.
    """
    return size


@agent("offered-plain")
def plain(): ...
'''


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current directory, whose modules are forgotten at the end."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(functions, "_registered", {})
    monkeypatch.delenv("CELERIAC_AGENT_MODULES", raising=False)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("offered")]:
        del sys.modules[name]


def test_a_module_of_the_current_directory_is_imported(directory: Path) -> None:
    (directory / "offered.py").write_text(OFFERED)
    plain, score = functions_in("offered")
    assert (score.name, score.path) == ("offered-score", "offered:score")
    assert score.description == "Score a lead by its size."
    assert score.schema["required"] == ["company"]
    assert (plain.name, plain.description, plain.schema["properties"]) == ("offered-plain", "", {})


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "can't be imported: ModuleNotFoundError"),
        ("import", "can't be imported: SyntaxError"),
        ("raise SystemExit(3)", "can't be imported: SystemExit"),
        ("", "has no agent functions"),
        (
            "import celeriac\n@celeriac.agent('x')\ndef f(a, /): ...\n",
            "passed by name, but a can't",
        ),
    ],
)
def test_what_cannot_be_used_is_explained(
    directory: Path, source: str | None, message: str
) -> None:
    if source is not None:
        (directory / "offered.py").write_text(source)
    with pytest.raises(UsageProblemError, match=message):
        functions_in("offered")


def test_the_module_of_a_name_is_found_without_importing_it(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hint_for("offered-score") is None
    (directory / "broken.py").write_text("def (")
    (directory / "offered.py").write_text("raise SystemExit\n" + OFFERED)
    assert "`celeriac apply --module offered` creates it" in str(hint_for("offered-score"))
    assert "--module offered`" in str(hint_for("offered-plain"))
    assert hint_for("score") is None
    package = directory / "elsewhere" / "offered_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "agents.py").write_text(OFFERED.replace("offered-", "packed-"))
    assert hint_for("packed-score") is None
    monkeypatch.syspath_prepend(directory / "elsewhere")
    monkeypatch.setenv("CELERIAC_AGENT_MODULES", "offered_package,none.such")
    assert "--module offered_package.agents`" in str(hint_for("packed-score"))
    assert not {"offered", "offered_package"} & set(sys.modules)


def test_modules_that_workers_may_not_import_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert unlisted(["shop"]) == ["shop"]
    monkeypatch.setenv("CELERIAC_AGENT_MODULES", "shop.agents,office")
    assert unlisted(["shop", "shop.agents", "office.inner", "shop.agents2"]) == [
        "shop", "shop.agents2",
    ]  # fmt: skip
