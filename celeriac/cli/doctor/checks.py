"""Checks of the machine and of the settings."""

import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

from celeriac.agents.crewai.venv import CrewVenv, State, crewai_version
from celeriac.agents.repository.git import OLDEST_GIT, can_pin, git_version
from celeriac.cli.core.output import CommandError, ExitCode, size
from celeriac.domain.doctor import Cause, Code, Finding, Level, failed, ok, warning
from celeriac.domain.errors import ConfigurationError
from celeriac.embedded import weights
from celeriac.embedded.endpoints import RunningStack
from celeriac.embedded.errors import HomeUnusableError
from celeriac.embedded.home import Home
from celeriac.kit.access import first_closed
from celeriac.kit.processes import identify
from celeriac.kit.words import counted
from celeriac.settings import Settings
from celeriac.version import __version__
from celeriac.wiring.confinement import checked_sandbox
from celeriac.wiring.core import child_user, places
from celeriac.wiring.doctor import build_checks

_OLDEST = (3, 11)
_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(\[[^]]*\])?(==(?P<pinned>[^,;\s]+))?")
_DAY = 86_400
_OLD_PRICES = 180
_DISK_LOW = 1024**3
_DISK_OUT = 100 * 1024**2
_EXIT_CODES = {
    Cause.BROKEN: ExitCode.FAILED,
    Cause.UNAVAILABLE: ExitCode.UNAVAILABLE,
    Cause.MISCONFIGURED: ExitCode.USAGE,
    Cause.DENIED: ExitCode.DENIED,
}
"""The exit code of a command that a failure stops."""


def check_python() -> Finding:
    """Check the versions of Python and Celeriac."""
    message = f"{platform.python_version()} at {sys.executable}, Celeriac {__version__}"
    if sys.version_info < _OLDEST:
        return failed(Code.PYTHON, message, "Use Python 3.11 or newer.", Cause.BROKEN)
    return ok(Code.PYTHON, message)


def check_packages() -> Finding:
    """Check that the required packages are installed, pinned ones in their version."""
    needed = [text for text in requires("celeriac") or () if "extra ==" not in text]
    wrong = [fault for text in needed if (fault := _fault(text))]
    if wrong:
        return failed(
            Code.PACKAGES,
            "; ".join(wrong),
            "Install Celeriac again: make setup, or pip install --upgrade celeriac.",
            Cause.BROKEN,
        )
    return ok(Code.PACKAGES, f"all {len(needed)} are there; Celery {version('celery')}")


def check_model(models: Path) -> Finding:
    """Check that the local model is installed; its weights may be in `models`."""
    commands = weights.missing(models)
    if commands:
        return warning(Code.LOCAL_MODEL, "not installed", f"{commands}; or use other models.")
    return ok(Code.LOCAL_MODEL, f"installed; weights at {weights.find(models)}")


def check_crewai(venv: CrewVenv) -> Finding:
    """Check whether workers of this machine can run crews, which is optional."""
    state = venv.state()
    if state is State.READY:
        return ok(Code.CREWAI, f"{crewai_version()} at {venv.root}")
    if state is State.MISSING:
        return ok(Code.CREWAI, "not installed; `celeriac crews install` does it")
    return warning(Code.CREWAI, f"{state.value} at {venv.root}", "Run `celeriac crews install`.")


def check_agents(settings: Settings) -> Finding:
    """Check the user that agents run as, and that it can read Python.

    Does not create the user: a worker that needs it does.
    """
    try:
        user = child_user(settings, make=False)
    except ConfigurationError as error:
        return failed(Code.AGENT_USER, error.message, None, Cause.MISCONFIGURED)
    if user.ids is None:
        return _of_ourselves()
    needed = (Path(sys.executable), Path(os.__file__), *Path(__file__).parents[:3])
    for path in needed:
        closed = first_closed(path, user.ids, above=False)
        if closed is not None:
            cure = f"chmod o+rX {closed}, or set CELERIAC_AGENT_USER."
            return warning(Code.AGENT_USER, f"run as {user.name}, who can't read {closed}", cure)
    return ok(Code.AGENT_USER, f"run as {user.name} (user id {user.ids.user})")


def _of_ourselves() -> Finding:
    if os.geteuid() == 0:
        return warning(
            Code.AGENT_USER,
            "run as root, with every right and secret of the worker's",
            "Unset CELERIAC_AGENT_USER.",
        )
    return ok(Code.AGENT_USER, f"run as this user (user id {os.geteuid()}), who owns the home")


def check_confinement(settings: Settings) -> Finding:
    """Check whether agents can be confined here as the settings ask, by a program in a sandbox."""
    asked = settings.confinement
    if asked.driver == "none":
        limits = (asked.memory_mb, asked.disk_mb, asked.files)
        unused = "; limits of a sandbox hold only for agents that demand one" if any(limits) else ""
        message = "off by the settings here: agents see what their user may read"
        return ok(Code.CONFINEMENT, message + unused)
    try:
        checked_sandbox(settings, child_user(settings, make=False), places(settings).workdirs)
    except ConfigurationError as error:
        return failed(Code.CONFINEMENT, error.message, None, Cause.MISCONFIGURED)
    network, hosts = asked.network, ", ".join(asked.hosts)
    named = f"; agents may name {hosts}" if hosts else ""
    place = "containers" if asked.driver == "container" else f"sandboxes of {asked.described}"
    return ok(Code.CONFINEMENT, f"agents run in {place}; network: {network}{named}")


def check_claude(settings: Settings) -> Finding:
    """Check whether workers of this machine can run Claude Code, which is optional."""
    if find_spec("claude_agent_sdk") is None:
        return ok(Code.CLAUDE_CODE, "not installed; pip install 'celeriac[claude]' does it")
    found = f"SDK {version('claude-agent-sdk')}"
    if settings.anthropic_api_key is None:
        return ok(Code.CLAUDE_CODE, f"{found}; its agents need ANTHROPIC_API_KEY, which is not set")
    return ok(Code.CLAUDE_CODE, f"{found}, asks {settings.anthropic_base_url}")


def check_git(settings: Settings) -> Finding:
    """Check that git, and ssh, can fetch the repositories that tasks may name."""
    allowed = settings.repositories.allow
    if not allowed:
        return ok(Code.GIT, "not needed: CELERIAC_REPOSITORIES_ALLOW allows no repository")
    cure = (
        f"Install git {OLDEST_GIT} or later on the machines of workers, or allow no repositories: "
        "CELERIAC_REPOSITORIES_ALLOW=''."
    )
    found = git_version()
    if found is None:
        message = "not there, or does not run: tasks with a repository fail on this machine"
        return warning(Code.GIT, message, cure)
    if not can_pin(found) and any(each.startswith("https:") for each in allowed):
        return warning(Code.GIT, f"{found} is too old for https:// repositories", cure)
    if shutil.which("ssh") is None and any(each.startswith("ssh:") for each in allowed):
        message = f"{found}; there is no ssh for the ssh:// repositories that are allowed"
        return warning(Code.GIT, message, "Install a client of ssh on the machines of workers.")
    return ok(Code.GIT, f"{found}; by the settings here, tasks may name {', '.join(allowed)}")


def _fault(requirement: str) -> str | None:
    """Return what is wrong with the package of a requirement such as `kombu[redis]==5.7.0`."""
    match = _REQUIREMENT.match(requirement)
    if match is None:
        return f"{requirement!r} can't be understood"
    name, pinned = match["name"], match["pinned"]
    try:
        found = version(name)
    except PackageNotFoundError:
        return f"{name} is missing"
    if pinned and found != pinned:
        return f"{name} is {found}, needed is {pinned}"
    return None


def check_home(home: Home) -> Iterator[Finding]:
    """Check that the home can be used, and that its disk has room."""
    try:
        if exists := home.root.exists():
            Home.open(home.root)
    except HomeUnusableError as error:
        yield failed(Code.HOME, error.message, None, Cause.BROKEN)
        return
    yield ok(Code.HOME, f"{home.root}{'' if exists else ' will be made by `celeriac up`'}")
    yield _judge_disk(home.root)


def _judge_disk(root: Path) -> Finding:
    place = next(each for each in (root, *root.parents) if each.exists())
    free = shutil.disk_usage(place).free
    message = f"{size(free)} free at {place}"
    if free < _DISK_OUT:
        return failed(Code.DISK, message, "Free some space: PostgreSQL stops without.")
    if free < _DISK_LOW:
        return warning(Code.DISK, message, "Free some space before it runs out.")
    return ok(Code.DISK, message)


def check_prices() -> Iterator[Finding]:
    """Check how old the published prices of models are, at least: since they were installed."""
    found = find_spec("genai_prices")
    if found is None or found.origin is None:  # the check of packages says so
        return
    days = int((time.time() - Path(found.origin).stat().st_mtime) // _DAY)
    message = (
        f"genai-prices {version('genai-prices')}, installed {counted(max(days, 0), 'day')} ago"
    )
    if days > _OLD_PRICES:
        yield warning(
            Code.PRICES,
            f"{message}: newer models have no price, and changed prices are wrong",
            "Run `pip install --upgrade genai-prices`, or set your own with CELERIAC_PRICES_FILE.",
        )
    else:
        yield ok(Code.PRICES, message)


def check_stack(stack: RunningStack | None) -> Finding:
    """Check whether `celeriac up` runs in the home."""
    if stack is None:
        return ok(Code.STACK, "does not run in this home")
    ended = [name for name, pid in stack.pids.items() if identify(pid) is None]
    message = f"process {stack.supervisor.pid} runs {', '.join(stack.pids)}"
    if ended:
        # it writes the pids again after each restart
        message += f"; not running now: {', '.join(ended)}"
    return ok(Code.STACK, message)


def check_servers(settings: Settings, *, program: str, broker_needed: bool) -> Sequence[Finding]:
    """Return the warnings about the servers that `program` needs.

    Raises CommandError with every failure and its cure. Without `broker_needed` an unreachable
    broker is a warning: executions are stored and sent later.
    """
    checks = build_checks(settings)
    needed = [*checks.database()]
    helpful = [*checks.redis(), *checks.broker()]
    if broker_needed:
        needed, helpful = [*needed, *helpful], []
    failures = [finding for finding in needed if finding.level is Level.FAILED]
    if failures:
        raise CommandError(
            "\n".join([f"{program} can't start.", *_lines(failures)]),
            exit_code=_EXIT_CODES[failures[0].cause or Cause.BROKEN],
            problem="not_ready",
        )
    return [finding for finding in [*needed, *helpful] if finding.level is not Level.OK]


def _lines(findings: Sequence[Finding]) -> Iterator[str]:
    for finding in findings:
        yield f"  {finding.subject}: {finding.message}"
        if finding.cure:
            yield f"    {finding.cure}"
