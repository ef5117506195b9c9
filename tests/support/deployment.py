"""The files of deploy/ as tests read them: the image, and every command that is named there."""

import json
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from supervisor.options import ServerOptions

from tests.support.places import temporary_directory
from tests.support.programs import REPOSITORY

DEPLOY = REPOSITORY / "deploy"
COMPOSE = DEPLOY / "compose" / "compose.yaml"
SUPERVISOR = DEPLOY / "supervisor" / "celeriac.conf"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*/*.yaml"))
PROGRAMS = "/opt/celeriac/bin/"
"""Where image, units and supervisor's programs have Celeriac."""

Command = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Instruction:
    """An instruction of the Dockerfile, its continued lines joined."""

    name: str
    value: str

    def words(self) -> list[str]:
        """Its value in the form of a JSON list, which starts no shell."""
        found: list[str] = json.loads(self.value[self.value.index("[") :])
        return found


def stages() -> list[list[Instruction]]:
    """Return the instructions of each stage of the Dockerfile."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
    found: list[list[Instruction]] = []
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        name, _, value = line.partition(" ")
        if name == "FROM":
            found.append([])
        if line and found:
            found[-1].append(Instruction(name, value))
    return found


def image() -> Mapping[str, Instruction]:
    """Return the last instruction of each name in the stage that is shipped."""
    return {each.name: each for each in stages()[-1]}


def image_environment() -> dict[str, str]:
    """Return the variables that the image sets."""
    return dict(word.split("=", 1) for word in shlex.split(image()["ENV"].value))


def documents(file: Path) -> list[Any]:
    """Return the documents of a YAML file."""
    return list(yaml.safe_load_all(file.read_text()))


def services() -> dict[str, Any]:
    """Return the services of the compose file."""
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]
    return found


def pods() -> Iterator[tuple[str, Any]]:
    """Yield the name and the specification of the pods of each Deployment, Job and CronJob."""
    for file in MANIFESTS:
        for each in documents(file):
            spec = each.get("spec", {})
            made = spec.get("jobTemplate", {}).get("spec", spec)
            if each["kind"] in {"Deployment", "Job", "CronJob"}:
                yield each["metadata"]["name"], made["template"]["spec"]


def unit(file: Path) -> dict[str, list[str]]:
    """Return the values of each key of a systemd unit."""
    found: dict[str, list[str]] = {}
    for line in file.read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def supervised() -> list[Any]:
    """Return the programs of the supervisor configuration, by supervisor's own parser.

    Only the user and the directory of the logs are replaced: they must exist.
    """
    with temporary_directory() as directory:
        text = SUPERVISOR.read_text().replace("/var/log/supervisor", str(directory))
        text = re.sub(r"(?m)^user=celeriac$", f"user={os.getuid()}", text)
        file = directory / "supervisord.conf"
        file.write_text(f"[supervisord]\nchildlogdir={directory}\n{text}")
        options = ServerOptions()
        options.realize(args=["-c", str(file)])
        return [each for group in options.process_group_configs for each in group.process_configs]


def commands() -> dict[Command, list[str]]:
    """Return every command that starts a program of ours, with the places that name it."""
    found: dict[Command, list[str]] = {}
    entry, usual = image()["ENTRYPOINT"].words(), image()["CMD"].words()
    named: list[tuple[str, list[str]]] = [("Dockerfile", [*entry, *usual])]
    for name, service in services().items():
        if service["image"].startswith("celeriac:"):
            words = [*service.get("entrypoint", entry), *service.get("command", [])]
            named.append((f"compose: {name}", words))
    for file in UNITS:
        [line] = unit(file)["ExecStart"]
        named.append((f"systemd: {file.name}", shlex.split(line.replace("%%", "%"))))
    named += [(f"supervisor: {each.name}", shlex.split(each.command)) for each in supervised()]
    for name, pod in pods():
        [container] = pod["containers"]
        named.append((f"Kubernetes: {name}", [*entry, *container["args"]]))
    for place, words in named:
        command = (words[0].removeprefix(PROGRAMS), *words[1:])
        found.setdefault(command, []).append(place)
    return found


def tool(name: str) -> str:
    """Return the path of a program of this environment."""
    return f"{Path(sys.executable).parent}/{name}"
