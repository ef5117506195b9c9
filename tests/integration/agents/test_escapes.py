"""Attempts of programs and functions to leave their sandbox: nothing read, written or reached."""

import os
import sys

import pytest

from celeriac.agents.child.confinement import Confinement
from tests.support.outside import PROGRAM, Outside
from tests.support.run_context import RecordingContext, command_job, python_job
from tests.support.runners import CommandRunner, PythonRunner

pytestmark = [pytest.mark.anyio, pytest.mark.requirement("F4", "F25")]

MEMORY_MB = 256
OPEN_WITHOUT = (
    "reading: a secret",
    "reading: a secret by dots alone",
    "reading: a secret from our directory",
    "reading: another session",
    "reading: a saved archive",
    "reading: an object of the store",
    "reading: the log of the worker",
    "reading: temporary files of the machine",
    "reading: shared memory of the machine",
    "reading: the environment of a sibling",
    "reading: the command line of the worker",
    "reading: the directory of sessions",
    "reading: upwards by descriptors",
    "reading: by every descriptor there is",
    "links: to a secret",
    "links: of links",
    "links: changed while they are followed",
    "processes: signal a sibling",
    "processes: open a sibling",
    "processes: bind a sibling to a processor",
    "processes: secrets in environments",
    "processes: secrets in command lines",
    "processes: see those of the machine",
    "writing: a secret",
    "writing: anywhere that lets us",
    "calls: name_to_handle_at",
    "calls: unshare",
    "namespaces: user",
    "sockets: a server",
    "sockets: a server by another loopback",
    "sockets: a server by the machine's address",
    "sockets: a server at ::1",
    "sockets: PostgreSQL",
    "sockets: Valkey",
    "sockets: a datagram to a server",
    "sockets: an abstract one",
    "sockets: one with a path",
    "sockets: all ports of the loopback",
    "sockets: names of sockets of the machine",
    "devices: any but those of programs",
    "limits: fill /tmp",
    "limits: a file that is too large",
    "limits: more processes",
    "left behind: sitecustomize.py",
)
"""Attempts that succeed where nothing is confined: they try the right thing."""


def commands(confinement: Confinement) -> CommandRunner:
    return CommandRunner(
        commands={"escape": [sys.executable, "-P", str(PROGRAM)], "shell": ["sh", "-c"]},
        confinement=confinement,
    )


async def test_no_attempt_of_a_program_succeeds(outside: Outside) -> None:
    bounds = outside.confinement({"PATH": os.environ["PATH"]})
    context = RecordingContext(outside.workdir)
    job = command_job("escape", **outside.targets(outside.workdir, memory_mb=MEMORY_MB))

    done = await commands(bounds).run(outside.job(job), context)

    outside.check(done.result, context)
    answer = """echo '{"type": "result", "value": 1}'"""
    again = await commands(bounds).run(command_job("shell", answer), context)
    assert again.result == 1
    outside.check_outside()


async def test_no_attempt_of_a_function_succeeds(outside: Outside) -> None:
    bounds = outside.confinement({"PATH": os.environ["PATH"]})
    runner = PythonRunner(modules=["tests.support"], confinement=bounds)
    context = RecordingContext(outside.workdir)
    job = python_job("escape", **outside.targets(outside.workdir, memory_mb=MEMORY_MB))

    done = await runner.run(outside.job(job), context)

    outside.check(done.result, context)
    again = await runner.run(python_job("look_at", path="/"), context)
    assert again.result["exists"]
    outside.check_outside()


async def test_attempts_succeed_where_nothing_is_confined(outside: Outside) -> None:
    bounds = Confinement({"PATH": os.environ["PATH"]}, user=outside.user)
    outside.caught.touch()
    job = command_job("escape", **outside.targets(memory_mb=MEMORY_MB, only=OPEN_WITHOUT))

    done = await commands(bounds).run(job, RecordingContext(outside.workdir))

    refused = {name: text for name, text in done.result.items() if not text.startswith("GOT ")}
    assert refused == {}
    assert set(done.result) == {*OPEN_WITHOUT}
