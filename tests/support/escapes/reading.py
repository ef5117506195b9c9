"""Files and directories that are none of the agent's, by paths, links and /proc."""

import os
import threading
import time
from contextlib import suppress
from pathlib import Path

from tests.support.escapes.table import (
    TARGETS,
    NothingGotError,
    add,
    attempt,
    done,
    found,
    listed,
    read,
)

SECRET, OTHER = TARGETS["secret"], TARGETS["other"]
WORKER, SIBLING = TARGETS["worker"], TARGETS["sibling"]
HERE = os.getcwd()
TURNS_SECONDS = 1.0
UP = "/".join([".."] * HERE.count("/"))

PATHS = {
    "a secret": SECRET,
    "a secret by dots": f"{HERE}/{UP}{SECRET}",
    "a secret by dots alone": f"{UP}{SECRET}",
    "a secret by double slashes": SECRET.replace("/", "//"),
    "a secret from our root": f"/proc/self/root{SECRET}",
    "a secret from our directory": f"/proc/self/cwd/{UP}{SECRET}",
    "a secret from a thread": f"/proc/thread-self/root{SECRET}",
    "a secret from the first process": f"/proc/1/root{SECRET}",
    "a secret from the directory of the first process": f"/proc/1/cwd/{UP}{SECRET}",
    "a secret from our parent": f"/proc/{os.getppid()}/root{SECRET}",
    "a secret from the worker": f"/proc/{WORKER}/root{SECRET}",
    "a secret from a sibling": f"/proc/{SIBLING}/root{SECRET}",
    "another session": OTHER,
    "a saved archive": TARGETS["archive"],
    "an object of the store": TARGETS["object"],
    "the log of the worker": TARGETS["log"],
    "temporary files of the machine": TARGETS["temporary"],
    "shared memory of the machine": TARGETS["shared"],
    "the environment of the worker": f"/proc/{WORKER}/environ",
    "the environment of a sibling": f"/proc/{SIBLING}/environ",
    "the memory map of the worker": f"/proc/{WORKER}/maps",
    "the memory of the worker": f"/proc/{WORKER}/mem",
    "the memory of a sibling": f"/proc/{SIBLING}/mem",
    "the input of a sibling": f"/proc/{SIBLING}/fd/0",
    "the command line of the worker": f"/proc/{WORKER}/cmdline",
    "the stack of the worker": f"/proc/{WORKER}/stack",
    "passwords": "/etc/shadow",
    "old passwords": "/etc/shadow-",
    "passwords of groups": "/etc/gshadow",
    "sudoers": "/etc/sudoers",
    "the machine's number": "/etc/machine-id",
    "the file systems": "/etc/fstab",
    "keys of the host": "/etc/ssh/ssh_host_rsa_key",
    "a key of the system": "/etc/ssl/private/ssl-cert-snakeoil.key",
    "the memory of the kernel": "/proc/kcore",
    "the memory of the machine": "/dev/mem",
    "the ports of the machine": "/dev/port",
    "the log of the kernel": "/dev/kmsg",
    "the log of the kernel by /proc": "/proc/kmsg",
    "root's history": "/root/.bash_history",
    "root's keys": "/root/.ssh/id_rsa",
    "root's cloud keys": "/root/.aws/credentials",
    "the token of a pod": "/var/run/secrets/kubernetes.io/serviceaccount/token",
    "data of the machine's vendor": "/sys/class/dmi/id/product_uuid",
    "data of cloud-init": "/var/lib/cloud/instance/user-data.txt",
}  # fmt: skip
for title, place in PATHS.items():
    add(f"reading: {title}", read, place)
for place in ("/root", "/home", "/var", "/run", "/sys", "/srv", "/opt", "/mnt", "/media", "/boot",
              "/lost+found", "/dev/mqueue"):  # fmt: skip
    add(f"reading: the directory {place}", listed, place)
add("reading: the directory of secrets", listed, str(Path(SECRET).parent))
add("reading: the directory of sessions", listed, str(Path(OTHER).parents[1]))
add("reading: the directory above ours", listed, str(Path(HERE).parent))


def linked(target: str) -> str:
    """Read a target by a symbolic link in the working directory."""
    link = Path("link")
    link.unlink(missing_ok=True)
    link.symlink_to(target)
    try:
        return read("link")
    finally:
        link.unlink()


add("links: to a secret", linked, SECRET)
add("links: to another session", linked, OTHER)
add("links: to the root of the worker", linked, f"/proc/{WORKER}/root{SECRET}")
add("links: with many dots", linked, f"{'../' * 40}{SECRET.lstrip('/')}")
add("links: a hard one to a secret", done, os.link, SECRET, "hard")
add("links: a hard one to another session", done, os.link, OTHER, "hard")


@attempt("links: of links")
def chained() -> str:
    """A link to a link of a directory outside."""
    Path("way").symlink_to(Path(SECRET).parent)
    Path("door").symlink_to(f"way/{Path(SECRET).name}")
    try:
        return read("door")
    finally:
        Path("door").unlink()
        Path("way").unlink()


@attempt("links: changed while they are followed")
def swapped() -> object:
    """A directory and a link that take turns under one name."""
    name, ended = Path(SECRET).name, threading.Event()
    Path("plain").mkdir()
    Path("plain", name).write_text("ours")
    Path("turn").symlink_to("plain")

    def swap() -> None:
        while not ended.is_set():
            for target in (str(Path(SECRET).parent), "plain"):
                Path("next").symlink_to(target)
                Path("next").replace("turn")

    swapping = threading.Thread(target=swap)
    swapping.start()
    texts: set[str] = set()
    deadline = time.monotonic() + TURNS_SECONDS
    try:
        while time.monotonic() < deadline and not texts - {"ours"}:
            with suppress(OSError):
                texts.add(read(f"turn/{name}"))
    finally:
        ended.set()
        swapping.join()
        Path("turn").unlink()
        Path("plain", name).unlink()
        Path("plain").rmdir()
    return found(texts - {"ours"})


@attempt("reading: upwards by descriptors")
def upwards() -> str:
    """Open parent after parent, then the secret from there."""
    descriptor = os.open(".", os.O_RDONLY)
    for _ in range(60):
        above = os.open("..", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = above
    try:
        with os.fdopen(os.open(SECRET.lstrip("/"), os.O_RDONLY, dir_fd=descriptor)) as file:
            return file.read()
    finally:
        os.close(descriptor)


@attempt("reading: by every descriptor there is")
def by_descriptors() -> object:
    """Go from each process's root, directory and open files to the secret."""
    texts = []
    for process in Path("/proc").glob("[0-9]*"):
        ways = [process / "root", process / "cwd"]
        with suppress(OSError):
            ways += [*(process / "fd").iterdir()]
        for way in ways:
            with suppress(OSError):
                texts.append(read(f"{way}{SECRET}"))
    return found(texts)


@attempt("reading: a file that is mapped by somebody")
def mapped() -> object:
    """Files of others that are mapped in our processes."""
    outside = str(Path(SECRET).parents[1])
    texts = [each.read_text() for each in Path("/proc").glob("[0-9]*/maps") if os.access(each, 4)]
    return found([text for text in texts if f"{outside}/secrets" in text])


@attempt("reading: the keys of the kernel")
def keys() -> object:
    """That of the worker's session, in the list of keys that we may see."""
    lines = Path("/proc/keys").read_text().splitlines()
    return found([line for line in lines if "celeriac-test" in line])


@attempt("reading: by the mounts of the sandbox")
def by_mounts() -> object:
    """A device of the disk, which could be read past all files."""
    devices = {line.split()[2] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
    for each in devices:
        with suppress(OSError):
            return read(f"/dev/block/{each}")
    raise NothingGotError("there are no devices")
