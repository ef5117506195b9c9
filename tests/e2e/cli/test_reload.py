"""Agents whose code is edited while `celeriac up` runs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command_line import CommandLine, running_up
from tests.support.places import temporary_directory
from tests.support.waiting import wait_until

SHOP = """\
import celeriac
import edited_prices


@celeriac.agent("score")
async def score(size: int) -> int:
    return size * edited_prices.FACTOR


@celeriac.agent("plain")
def plain(size: int) -> int:
    return size * edited_prices.FACTOR
"""


@pytest.fixture
def commands() -> Iterator[CommandLine]:
    """A command line in a directory with two modules of agents."""
    with temporary_directory() as directory:
        directory.chmod(0o755)
        write(directory, SHOP, "FACTOR = 2\n")
        yield CommandLine(directory, "-P", CELERIAC_AGENT_MODULES="edited_shop")


def write(directory: Path, shop: str, prices: str) -> None:
    (directory / "edited_shop.py").write_text(shop)
    (directory / "edited_prices.py").write_text(prices)


def run(commands: CommandLine, name: str) -> object:
    return commands.ask("run", name, "--var", "size:=21")["result"]


def test_edited_code_is_run_without_a_word(commands: CommandLine) -> None:
    with running_up(commands) as up:
        up.add_function("score", "edited_shop")
        up.add_function("plain", "edited_shop")
        assert (run(commands, "score"), run(commands, "plain")) == (42, 42)
        write(commands.directory, SHOP, "FACTOR = 100\n")
        wait_until(lambda: "worker.restarts" in up.text, "the worker says that it restarts")
        assert "edited_prices.py" in up.text, "it names the file"
        wait_until(lambda: up.text.count("worker is ready") == 2, "a new worker is ready")
        assert (run(commands, "score"), run(commands, "plain")) == (2100, 2100)
        more = f"{SHOP}\n\nasync def late(size: int) -> str:\n    return 'late'\n"
        write(commands.directory, more, "FACTOR = 100\n")
        wait_until(lambda: up.text.count("worker is ready") == 3, "another one is ready")
        up.add_function("late", "edited_shop")
        assert run(commands, "late") == "late"
        assert "times in a row" not in up.text, "no growing pauses"


def test_without_reload_it_is_named(commands: CommandLine) -> None:
    with running_up(commands, "--no-reload") as up:
        up.add_function("score", "edited_shop")
        up.add_function("plain", "edited_shop")
        assert (run(commands, "score"), run(commands, "plain")) == (42, 42)
        more = f"{SHOP}\n\nasync def late(size: int) -> str:\n    return 'late'\n"
        write(commands.directory, more, "FACTOR = 100\n")
        wait_until(lambda: "worker.code_changed" in up.text, "the worker says that it is stale")
        assert run(commands, "plain") == 2100, "its own process imports it afresh"
        assert run(commands, "score") == 42
        up.add_function("late", "edited_shop")
        failed = commands.run("run", "late", "--var", "size:=21")
        assert failed.code == 1
        assert "edited_shop.py has changed since it was imported: restart the worker" in failed.err
        assert up.text.count("worker is ready") == 1
