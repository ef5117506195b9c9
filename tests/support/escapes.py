"""Attempts to leave a sandbox, tried one after the other by a program of the child protocol.

Run by its path, inside. Its result names each attempt with what it got, or why it got nothing.
The targets are variables of the job; `only` names the attempts to make, if not all.
"""

import ctypes
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
START = json.loads(sys.stdin.readline())
TARGETS = START["job"]["variables"]
SECRET, OTHER, WORKER = TARGETS["secret"], TARGETS["other"], int(TARGETS["worker"])
PORT, ABSTRACT, SOCKET = int(TARGETS["port"]), TARGETS["abstract"], TARGETS["socket"]
MEGABYTE = 1024 * 1024
HERE = os.getcwdb()
NEW_USER, NEW_NET, NEW_NS = 0x10000000, 0x40000000, 0x20000
MS_BIND, MS_REMOUNT = 4096, 32
ATTACH = 16
AF_VSOCK, AF_ALG = 40, 38

ATTEMPTS: dict[str, Callable[[], object]] = {}


def attempt(name: str) -> Callable[[Callable[[], object]], Callable[[], object]]:
    """Register an attempt, which returns what it got, or raises."""

    def register(function: Callable[[], object]) -> Callable[[], object]:
        ATTEMPTS[name] = function
        return function

    return register


def done(function: Callable[..., object], *arguments: object) -> str:
    """Call a function of the system, which raises what it refuses."""
    function(*arguments)
    return f"{function.__name__} was done"


def read(path: str) -> str:
    """Return the beginning of a file."""
    with open(path, errors="replace") as file:
        return file.read(200) or "(empty)"


def listed(path: str) -> object:
    """Return the entries of a directory, without those that lead to what we may see."""
    ours = {path.parts for each in TARGETS["shown"] for path in (Path(each), *Path(each).parents)}
    names = [each for each in os.listdir(path) if (Path(path) / each).parts not in ours]
    if not names:
        raise FileNotFoundError(f"{path} is empty")
    return names


def call(name: str, *arguments: object) -> str:
    """Call the C library; raises OSError with its errno."""
    if getattr(LIBC, name)(*arguments) == -1:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")
    return f"{name} succeeded"


def written(path: str) -> str:
    """Open a file for writing; should that succeed, nothing is damaged."""
    with open(path, "a"):
        return f"could write {path}"


def connected(family: int, address: object, kind: int = socket.SOCK_STREAM) -> str:
    """Connect, and send a byte."""
    with socket.socket(family, kind) as client:
        client.settimeout(2)
        client.connect(address)  # type: ignore[arg-type]
        client.send(b"x")
    return f"reached {address!r}"


def linked(target: str) -> str:
    """Read a target by a symbolic link in the working directory."""
    Path("link").unlink(missing_ok=True)
    Path("link").symlink_to(target)
    return read("link")


PATHS = {
    "the secret": SECRET,
    "the secret by a path with dots": f"{os.getcwd()}/../../{'/'.join(SECRET.split('/')[-2:])}",
    "the secret from the root of the first process": f"/proc/1/root{SECRET}",
    "the secret from our root": f"/proc/self/root{SECRET}",
    "the secret from the worker's root": f"/proc/{WORKER}/root{SECRET}",
    "the worker's environment": f"/proc/{WORKER}/environ",
    "the worker's memory map": f"/proc/{WORKER}/maps",
    "the worker's command line": f"/proc/{WORKER}/cmdline",
    "another session's file": OTHER,
    "passwords": "/etc/shadow",
    "sudoers": "/etc/sudoers",
    "the kernel's memory": "/proc/kcore",
    "the machine's memory": "/dev/mem",
    "the kernel's log": "/dev/kmsg",
    "the kernel's keys of others": "/etc/ssl/private/ssl-cert-snakeoil.key",
    "root's history": "/root/.bash_history",
    "root's keys": "/root/.ssh/id_rsa",
    "the token of a pod": "/var/run/secrets/kubernetes.io/serviceaccount/token",
}
for title, place in PATHS.items():
    ATTEMPTS[f"read {title}"] = partial(read, place)
ATTEMPTS["read the secret by a link"] = lambda: linked(SECRET)
ATTEMPTS["read another session by a link"] = lambda: linked(OTHER)
ATTEMPTS["link the secret"] = lambda: done(os.link, SECRET, "hard")
for place in ("/root", "/home", "/var", "/run", "/sys", "/srv", "/opt", "/mnt", "/boot", "/tmp"):
    ATTEMPTS[f"list {place}"] = partial(listed, place)
ATTEMPTS["list the home"] = lambda: listed(str(Path(SECRET).parents[1] / "secrets"))
ATTEMPTS["list the sessions"] = lambda: listed(str(Path.cwd().parent))

for place in (
    "/usr/x", "/usr/bin/x", "/etc/x", "/etc/passwd", "/x", "/dev/x", "/bin/x", SECRET, OTHER,
    "/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname",
    "/proc/sys/vm/drop_caches", f"/proc/{WORKER}/oom_score_adj", "/proc/self/uid_map",
    "/sys/fs/cgroup/cgroup.procs",
):  # fmt: skip
    ATTEMPTS[f"write {place}"] = partial(written, place)
ATTEMPTS["rename the directory"] = lambda: done(os.rename, Path.cwd(), f"{Path.cwd()}-gone")

ATTEMPTS["connect to a server on the loopback"] = lambda: connected(
    socket.AF_INET, ("127.0.0.1", PORT)
)
ATTEMPTS["connect by IPv6"] = lambda: connected(socket.AF_INET6, ("::1", PORT))
ATTEMPTS["connect to the machine's own address"] = lambda: connected(
    socket.AF_INET, (TARGETS["address"], PORT)
)
for host in ("169.254.169.254", "100.100.100.200", "168.63.129.16", "192.0.2.1", "10.0.0.1"):
    ATTEMPTS[f"connect to {host}"] = partial(connected, socket.AF_INET, (host, 80))
ATTEMPTS["send to a name server"] = lambda: connected(
    socket.AF_INET, ("192.0.2.53", 53), socket.SOCK_DGRAM
)
ATTEMPTS["resolve a name"] = lambda: socket.getaddrinfo("example.com", 80)
ATTEMPTS["connect to an abstract socket"] = lambda: connected(socket.AF_UNIX, f"\0{ABSTRACT}")
ATTEMPTS["connect to a socket by its path"] = lambda: connected(socket.AF_UNIX, SOCKET)
ATTEMPTS["connect to Docker"] = lambda: connected(socket.AF_UNIX, "/var/run/docker.sock")
ATTEMPTS["open a raw socket"] = lambda: socket.socket(
    socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP
)
ATTEMPTS["open a packet socket"] = lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)

KEYCTL = {"x86_64": 250, "aarch64": 219}[os.uname().machine]
SEARCH, SESSION = 10, -3
ATTEMPTS["find a key of the worker's session"] = lambda: call(
    "syscall", KEYCTL, SEARCH, SESSION, b"user", b"celeriac-test", 0
)

IO_URING, USERFAULTFD = 425, {"x86_64": 323, "aarch64": 282}[os.uname().machine]
USER_MODE_ONLY = 1
ATTEMPTS["reach the host of the machine"] = lambda: done(socket.socket, AF_VSOCK)
ATTEMPTS["use the kernel's ciphers"] = lambda: done(socket.socket, AF_ALG, socket.SOCK_SEQPACKET)
ATTEMPTS["submit calls by io_uring"] = lambda: call(
    "syscall", IO_URING, 8, ctypes.create_string_buffer(120)
)
ATTEMPTS["handle page faults"] = lambda: call("syscall", USERFAULTFD, USER_MODE_ONLY)


@attempt("trace a child")
def trace_child() -> str:
    """Trace a process of our own, as debuggers do."""
    child = os.fork()
    if child == 0:
        signal.pause()
    try:
        return call("ptrace", ATTACH, child, None, None)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


ATTEMPTS["become root"] = lambda: done(os.setuid, 0)
ATTEMPTS["become another user"] = lambda: done(os.setuid, 12345)
ATTEMPTS["change root"] = lambda: done(os.chroot, "/tmp")
ATTEMPTS["give a file away"] = lambda: done(os.chown, Path.cwd(), 12345, 12345)
ATTEMPTS["make a device"] = lambda: done(os.mknod, "disk", 0o60666, os.makedev(8, 0))
ATTEMPTS["mount a file system"] = lambda: call("mount", b"x", HERE, b"tmpfs", 0, None)
ATTEMPTS["mount /proc again"] = lambda: call("mount", b"x", HERE, b"proc", 0, None)
ATTEMPTS["mount by a link"] = lambda: call("mount", b"/", HERE, None, MS_BIND, None)
ATTEMPTS["remount / to write"] = lambda: call("mount", None, b"/", None, MS_REMOUNT, None)
ATTEMPTS["unmount what hides devices"] = lambda: call("umount2", b"/dev/mqueue", 2)
ATTEMPTS["unmount our /proc"] = lambda: call("umount2", b"/proc/sys", 2)
ATTEMPTS["make a user namespace"] = lambda: call("unshare", NEW_USER)
ATTEMPTS["make a network"] = lambda: call("unshare", NEW_NET)
ATTEMPTS["make a mount namespace"] = lambda: call("unshare", NEW_NS)
ATTEMPTS["change the host name"] = lambda: done(socket.sethostname, socket.gethostname())
ATTEMPTS["set the clock"] = lambda: done(time.clock_settime, time.CLOCK_REALTIME, time.time())
ATTEMPTS["reboot"] = lambda: call("reboot", 0)  # a command that does not exist
ATTEMPTS["swap"] = lambda: call("swapoff", b"/dev/sda")
ATTEMPTS["trace the worker"] = lambda: call("ptrace", ATTACH, WORKER, None, None)
ATTEMPTS["raise the limit of processes"] = lambda: done(
    resource.setrlimit, resource.RLIMIT_NPROC, (100_000, 100_000)
)


@attempt("signal everyone else")
def signalled_all() -> object:
    # the signal 0 ends nobody; a sandbox has nobody else but its first process
    for pid in range(3, 4_000):
        if pid not in {os.getpid(), os.getppid()}:
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                continue
            return f"{pid} exists"
    raise ProcessLookupError("there is nobody")


@attempt("read the command lines of others")
def command_lines() -> object:
    return [
        line
        for each in Path("/proc").glob("[0-9]*")
        if int(each.name) not in {1, os.getpid()} and (line := (each / "cmdline").read_bytes())
    ] or listed("/nowhere")


@attempt("signal the worker")
def signalled() -> object:
    os.kill(WORKER, 0)
    return "it exists"


@attempt("see other processes")
def seen() -> object:
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    ours = {1, os.getpid(), os.getppid()}
    return [pid for pid in pids if pid not in ours] or listed("/nowhere")


@attempt("join the namespaces of the first process")
def joined() -> object:
    for name in ("mnt", "net", "pid", "user"):
        with open(f"/proc/1/ns/{name}") as file:
            if os.readlink(f"/proc/1/ns/{name}") == os.readlink(f"/proc/self/ns/{name}"):
                continue
            call("setns", file.fileno(), 0)
            return f"joined {name}"
    raise PermissionError("they are ours")


@attempt("find secrets in environments")
def environments() -> object:
    texts = [Path(f"/proc/{pid}/environ").read_bytes() for pid in ("1", "self")]
    return [text for text in texts if b"worker-secret" in text] or listed("/nowhere")


@attempt("use inherited descriptors")
def descriptors() -> object:
    names = [os.readlink(f"/proc/self/fd/{each}") for each in os.listdir("/proc/self/fd")]
    return [each for each in names if not each.startswith(("pipe:", "/proc/"))] or listed("/none")


@attempt("find devices")
def devices() -> object:
    known = {
        "null", "zero", "full", "random", "urandom", "tty", "console", "ptmx", "pts", "shm", "fd",
        "stdin", "stdout", "stderr", "core",
    }  # fmt: skip
    return sorted(set(os.listdir("/dev")) - known) or listed("/nowhere")


@attempt("find shared memory of others")
def shared_memory() -> object:
    return Path("/proc/sysvipc/shm").read_text().splitlines()[1:] or listed("/nowhere")


@attempt("use programs with the rights of their owner")
def setuid() -> object:
    status = Path("/proc/self/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb"):
        if int(fields[name], 16):
            return f"{name} is {fields[name]}"
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    open_ones = [each[1] for each in mounts if "nosuid" not in each[3].split(",")]
    if fields["NoNewPrivs"].strip() != "1":
        return "new rights"
    return open_ones or listed("/nowhere")


@attempt("gain rights by su")
def su() -> object:
    ended = subprocess.run(
        ["su", "-s", "/bin/sh", "root", "-c", "id -u; cat /etc/shadow"],
        capture_output=True, check=False, stdin=subprocess.DEVNULL, text=True, timeout=10,
    )  # fmt: skip
    if "root:" in ended.stdout or ended.stdout.strip() == "0":
        return ended.stdout
    raise PermissionError(ended.stderr)


@attempt("fill /tmp")
def fill() -> object:
    return filled("/tmp/big", int(TARGETS["tmp_mb"]) + 1)


@attempt("fill shared memory")
def fill_shared() -> object:
    return filled("/dev/shm/big", int(TARGETS["tmp_mb"]) + 1)


@attempt("write a file that is too large")
def large() -> object:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    return filled("big", int(TARGETS["file_mb"]) + 1)


def filled(path: str, megabytes: int) -> str:
    """Write so many megabytes."""
    block = b"x" * MEGABYTE
    try:
        with open(path, "wb") as file:
            file.writelines(block for _ in range(megabytes))
        return f"wrote {megabytes} MB"
    finally:
        Path(path).unlink()


@attempt("use more memory than allowed")
def memory() -> object:
    return len(bytearray((int(TARGETS["memory_mb"]) + 64) * MEGABYTE))


@attempt("start more processes than allowed")
def fork_bomb() -> object:
    most = int(TARGETS["processes"])
    pids: list[int] = []
    try:
        while len(pids) <= most:
            pid = os.fork()
            if pid == 0:
                signal.pause()
            pids.append(pid)
        return f"{len(pids)} processes"
    finally:
        for each in pids:
            os.kill(each, signal.SIGKILL)
            os.waitpid(each, 0)


def tried(function: Callable[[], object]) -> str:
    """Return what an attempt got, or why not."""
    try:
        return f"GOT {function()!r}"
    except (OSError, ValueError, MemoryError, subprocess.SubprocessError) as error:
        return f"refused: {type(error).__name__}: {error}"


CHOSEN = TARGETS["only"] or list(ATTEMPTS)
RESULTS = {name: tried(ATTEMPTS[name]) for name in CHOSEN}
print(json.dumps({"type": "result", "value": RESULTS}))
