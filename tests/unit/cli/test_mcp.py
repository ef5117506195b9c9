"""`celeriac mcp` before it serves: what it is told, and what it refuses."""

from pathlib import Path

import pytest

from celeriac.cli.core.output import ExitCode
from celeriac.cli.main import main


@pytest.fixture(autouse=True)
def _nothing_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("CELERIAC_API_URL", "CELERIAC_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CELERIAC_HOME", str(tmp_path))


@pytest.mark.parametrize("option", [["--port", "8000"], ["--host", "0.0.0.0"]])
def test_an_address_goes_with_http(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mcp", *option]) == ExitCode.USAGE
    assert "--host and --port go with --http" in capsys.readouterr().err


@pytest.mark.parametrize("options", [[], ["--http", "--port", "0"]])
def test_without_a_server_nothing_is_served(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["mcp", *options]) == ExitCode.UNAVAILABLE
    told = capsys.readouterr()
    assert "No server is known" in told.err
    assert told.out == "", "stdout belongs to the protocol"


def test_over_stdio_it_needs_a_key_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mcp", "--api-url", "http://127.0.0.1:9"]) == ExitCode.DENIED
    assert "No API key for http://127.0.0.1:9 is known" in capsys.readouterr().err
