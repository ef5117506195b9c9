"""Real repositories on the local disk, and what runs agents in their checkouts."""

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from celeriac.agents.child.confinement import Confinement
from celeriac.agents.registry import continues
from celeriac.agents.repository.change import Collector
from celeriac.agents.repository.mirrors import MirrorLimits, Mirrors
from celeriac.agents.repository.runner import Repositories, RepositoryRunner
from celeriac.domain.executions.model import Completed, Parked
from celeriac.domain.repositories import Repository, RepositoryRule
from celeriac.services.executions.checkouts import workdir_of
from celeriac.services.ports import Job, Runner
from celeriac.services.storage_paths import StoragePaths
from tests.support.run_context import RecordingContext, command_job

_IDENTITY = {
    f"GIT_{role}_{part}": value
    for role in ("AUTHOR", "COMMITTER")
    for part, value in (("NAME", "People"), ("EMAIL", "people@example.com"))
}


def git(at: Path, *arguments: str) -> str:
    """Run git as a person does; return what it prints. Skips the test where there is none."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed: apt install git")
    done = subprocess.run(
        ["git", *arguments], cwd=at, check=True, capture_output=True, text=True,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **_IDENTITY},
    )  # fmt: skip
    return done.stdout.strip()


class Origin:
    """A repository with the branch `main`, the tag `v1` and one file in a directory."""

    def __init__(self, place: Path) -> None:
        self.path = place
        place.mkdir(parents=True)
        git(place, "init", "--quiet", "--initial-branch=main")
        self.first = self.commit({"README": "one\n", "lib/value": "1\n"})
        git(place, "tag", "v1")

    @property
    def url(self) -> str:
        """Its URL."""
        return self.path.as_uri()

    def commit(self, files: dict[str, str]) -> str:
        """Commit files; return the sha."""
        for name, text in files.items():
            path = self.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        git(self.path, "add", "-A")
        git(self.path, "commit", "--quiet", "-m", "work of people")
        return git(self.path, "rev-parse", "HEAD")


class Desk:
    """A home in which agents work in the checkouts of one origin."""

    def __init__(self, home: Path, origin: Origin, confinement: Confinement) -> None:
        self.home, self.origin = home, origin
        self.places = StoragePaths(home / "sessions", home / "work", home / "logs", home / "saved")
        self.shared = Repositories(
            rule=RepositoryRule(allow=(origin.url,)),
            mirrors=Mirrors(home / "repositories", limits=MirrorLimits(fetch_seconds=60)),
            collector=Collector(confinement=confinement),
            confinement=confinement,
            places=self.places,
        )

    def repository(self, **fields: Any) -> Repository:
        """Return the repository of a task."""
        return Repository(**{"git": self.origin.url, **fields})

    def base(self, job: Job) -> Path:
        """The directory of an execution."""
        return self.places.workdir(job.execution_id)

    def context(self, job: Job) -> RecordingContext:
        """Return a context for an attempt."""
        base = self.base(job)
        return RecordingContext(
            base if job.repository is None else workdir_of(base, job.repository)
        )

    def runner(self, inner: Runner, **changed: Any) -> RepositoryRunner:
        """Return `inner` in checkouts."""
        return RepositoryRunner(inner, replace(self.shared, **changed), continues=continues)

    async def run(
        self, inner: Runner, job: Job, context: RecordingContext | None = None
    ) -> tuple[Completed | Parked, RecordingContext]:
        """Run one attempt; return its outcome and its context."""
        used = context or self.context(job)
        return await self.runner(inner).run(job, used), used

    def applied(self, patch: Path, place: Path, at: str) -> Path:
        """Return a clone of the origin at `at` to which a patch was applied."""
        git(self.home, "clone", "--quiet", str(self.origin.path), str(place))
        git(place, "checkout", "--quiet", at)
        git(place, "apply", "--index", str(patch))
        return place


def lines(context: RecordingContext, source: str) -> list[str]:
    """The log lines of a source."""
    return [str(each["message"]) for each in context.logged() if each["source"] == source]


def answer(value: object) -> str:
    """Return shell that sends a result."""
    return f"echo '{json.dumps({'type': 'result', 'value': value})}'"


def job_of(desk: Desk, script: str, **repository: object) -> Job:
    """Return a job whose program reads its job, runs `script` and ends well."""
    job = command_job("shell", f"read start\n{script}\n{answer('done')}")
    return replace(job, repository=desk.repository(**repository))
