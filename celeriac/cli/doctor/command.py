"""`celeriac doctor`: checks everything that Celeriac needs."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from celeriac.cli.core.arguments import ApiKey, ApiUrl, Json, ServerHome
from celeriac.cli.core.output import ExitCode, Output
from celeriac.kit.text import printable

if TYPE_CHECKING:
    from celeriac.domain.doctor import Finding

_MARKS = {"ok": ("ok  ", "green"), "warning": ("warn", "yellow"), "failed": ("FAIL", "bold red")}


def doctor(
    as_json: Json = False,
    api_url: ApiUrl = None,
    api_key: ApiKey = None,
    home: ServerHome = None,
    *,
    providers: Annotated[
        bool,
        typer.Option(
            "--providers", help="Also ask the providers of models, without a key, for an answer."
        ),
    ] = False,
) -> None:
    """Check everything that Celeriac needs; show what is wrong and what helps.

    Checks Python, packages and git, the home and its disk, PostgreSQL, schema and
    clock, Redis and its keys, broker, workers and their releases, indexes,
    dead rows, transactions, leases, the keeper, API keys that end soon, API,
    key and the model server. Changes nothing. Exits with 1 if
    anything fails.

    Examples:
      celeriac doctor
      DATABASE_URL=postgresql://… REDIS_URL=redis://… celeriac doctor --json
    """
    from celeriac.domain.doctor import Level

    output = Output(as_json=as_json)
    findings = []
    for finding in _findings(home, api_url, api_key, providers=providers):
        findings.append(finding)
        if not as_json:
            _show(output, finding)
    failed = sum(finding.level is Level.FAILED for finding in findings)
    if as_json:
        output.json({"ok": not failed, "findings": [_as_json(each) for each in findings]})
    if failed:
        raise typer.Exit(ExitCode.FAILED)


def _findings(
    home: Path | None, api_url: str | None, api_key: str | None, *, providers: bool
) -> "Iterator[Finding]":
    from celeriac.agents.crewai.venv import CrewVenv
    from celeriac.cli.core.server import read_settings
    from celeriac.cli.doctor import checks, reach
    from celeriac.domain.doctor import Cause, Code, failed
    from celeriac.domain.errors import CeleriacError
    from celeriac.embedded.endpoints import find_running_stack
    from celeriac.embedded.home import Home
    from celeriac.wiring.doctor import build_checks

    yield checks.check_python()
    yield checks.check_packages()
    place = Home.at(home)
    yield from checks.check_home(place)
    try:
        settings = read_settings(home)
        yield checks.check_stack(find_running_stack(place))
    except CeleriacError as error:
        yield failed(Code.CONFIGURATION, error.message, None, Cause.MISCONFIGURED)
        return
    yield checks.check_agents(settings)
    yield checks.check_confinement(settings)
    yield checks.check_model(settings.models.absolute())
    yield checks.check_crewai(CrewVenv(settings.crewai.absolute()))
    yield checks.check_claude(settings)
    yield checks.check_git(settings)
    yield from checks.check_prices()
    servers = build_checks(settings)
    for check in servers.all().values():
        yield from check()
    if providers:
        yield from servers.providers()
    yield from reach.check_api(home, api_url, api_key)
    yield reach.check_model(settings)


def _show(output: Output, finding: "Finding") -> None:
    from rich.text import Text

    mark, style = _MARKS[finding.level]
    line = Text(mark, style=style)
    line.append(f"  {finding.subject:<14}{printable(finding.message)}", style="default")
    output.out.print(line, soft_wrap=True)
    if finding.cure:
        output.out.print(Text(f"      {'':<14}→ {printable(finding.cure)}"), soft_wrap=True)


def _as_json(finding: "Finding") -> dict[str, object]:
    return {
        "code": finding.code.value,
        "subject": finding.subject,
        "level": finding.level.value,
        "message": finding.message,
        "cure": finding.cure,
    }
