"""Rights that a process could gain: root, capabilities, namespaces, mounts, terminals, devices."""

import ctypes
import fcntl
import os
import resource
import signal
import subprocess
from pathlib import Path

from tests.support.escapes.table import TARGETS, add, attempt, call, done, found

HERE = os.getcwdb()
MS_REMOUNT, MS_BIND, MS_REC, MS_SHARED, MNT_DETACH = 32, 4096, 16384, 1 << 20, 2
NAMESPACES = {
    "time": 0x80, "mount": 0x20000, "cgroup": 0x2000000, "host name": 0x4000000,
    "messages": 0x8000000, "user": 0x10000000, "process": 0x20000000, "network": 0x40000000,
}  # fmt: skip
CALLS = TARGETS["numbers"]
TIOCSTI, TIOCLINUX, HIGH = 0x5412, 0x541C, 7 << 32
PR_CAP_AMBIENT, PR_SET_SECUREBITS, PR_SET_NO_NEW_PRIVS = 47, 28, 38

add("rights: become root", done, os.setuid, 0)
add("rights: become root in fact", done, os.setreuid, 0, 0)
add("rights: become root for files", done, os.setresuid, 0, 0, 0)
add("rights: become another user", done, os.setuid, 12345)
add("rights: join root's group", done, os.setgid, 0)
add("rights: join more groups", done, os.setgroups, [0, 4, 6])
add("rights: leave our root directory", done, os.chroot, "/tmp")
add("rights: capabilities for children", call, "prctl", PR_CAP_AMBIENT, 2, 21, 0, 0)
add("rights: keep capabilities", call, "prctl", PR_SET_SECUREBITS, 0x2F, 0, 0, 0)
add("rights: take new rights again", call, "prctl", PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0)
add("rights: more processes", done, resource.setrlimit, resource.RLIMIT_NPROC, (10**5, 10**5))
add("rights: larger files", done, resource.setrlimit, resource.RLIMIT_FSIZE, (-1, -1))
add("rights: core files", done, resource.setrlimit, resource.RLIMIT_CORE, (10**6, 10**6))
add("rights: locked memory", done, resource.setrlimit, resource.RLIMIT_MEMLOCK, (-1, -1))
add("rights: a higher rank", done, os.nice, -5)
add("rights: real time", lambda: done(os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(1)))


@attempt("rights: capabilities")
def capabilities() -> object:
    """Any that this process has, or could have."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":\t", 1) for line in lines)
    sets = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    held = [name for name in sets if int(fields[name], 16)]
    return found(held + (["NoNewPrivs"] if fields["NoNewPrivs"] != "1" else []))


@attempt("rights: files that run as their owner")
def setuid_files() -> object:
    """Mounts on which such files work."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return found([each[1] for each in mounts if "nosuid" not in each[3].split(",")])


def _as_root(*command: str) -> object:
    """Run a program that is to make us root."""
    ended = subprocess.run(
        command, capture_output=True, check=False, stdin=subprocess.DEVNULL, text=True, timeout=10,
    )  # fmt: skip
    return found(ended.stdout if ended.stdout.strip() == "0" or "root:" in ended.stdout else "")


add("rights: su", _as_root, "su", "-s", "/bin/sh", "root", "-c", "id -u")
add("rights: sudo", _as_root, "sudo", "-n", "id", "-u")
add("rights: a mount by its program", _as_root, "sh", "-c", "mount -t tmpfs x /tmp && echo 0")
add("rights: unshare", _as_root, "sh", "-c", "unshare -Ur id -u")
add(
    "rights: a sandbox in the sandbox",
    _as_root,
    "bwrap",
    "--dev-bind",
    "/",
    "/",
    "--uid",
    "0",
    "id",
    "-u",
)
add("rights: a group of passwords", _as_root, "sh", "-c", "chage -l root >&2 && echo 0")

add("mounts: a new file system", call, "mount", b"x", HERE, b"tmpfs", 0, None)
add("mounts: another /proc", call, "mount", b"x", HERE, b"proc", 0, None)
add("mounts: control groups", call, "mount", b"x", HERE, b"cgroup2", 0, None)
add("mounts: the disk", call, "mount", b"/dev/sda1", HERE, b"ext4", 0, None)
add("mounts: an overlay", call, "mount", b"x", HERE, b"overlay", 0, b"lowerdir=/")
add("mounts: one directory on another", call, "mount", b"/", HERE, None, MS_BIND | MS_REC, None)
add("mounts: / to write", call, "mount", None, b"/", None, MS_REMOUNT, None)
add("mounts: /usr to write", call, "mount", None, b"/usr", None, MS_REMOUNT | MS_BIND, None)
add("mounts: share ours", call, "mount", None, b"/", None, MS_REC | MS_SHARED, None)
add("mounts: uncover /proc/sys", call, "umount2", b"/proc/sys", MNT_DETACH)
add("mounts: uncover /tmp", call, "umount2", b"/tmp", MNT_DETACH)
add("mounts: uncover the root", call, "umount2", b"/", MNT_DETACH)
add("mounts: another root", call, "syscall", CALLS["pivot_root"], b".", b".")


def _cloned(flag: int) -> str:
    """Make a process in a namespace of its own, by the call behind fork."""
    number = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
    libc = ctypes.CDLL(None, use_errno=True)
    pid = libc.syscall(number, flag | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    if pid < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    os.waitpid(pid, 0)
    return "cloned"


def _cloned_anew(flag: int) -> str:
    """Do the same by clone3."""
    libc = ctypes.CDLL(None, use_errno=True)
    given = (ctypes.c_uint64 * 8)(flag, 0, 0, 0, signal.SIGCHLD)
    pid = libc.syscall(435, given, 64)
    if pid == 0:
        os._exit(0)
    if pid < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    os.waitpid(pid, 0)
    return "cloned"


for title, flag in NAMESPACES.items():
    add(f"namespaces: {title}", call, "unshare", flag)
    if flag >= NAMESPACES["mount"]:  # a smaller one is part of the signal
        add(f"namespaces: a child in another, {title}", _cloned, flag)
        add(f"namespaces: a child in another by a newer call, {title}", _cloned_anew, flag)


def _joined(pid: object, name: str) -> str:
    """Enter a namespace of a process."""
    with open(f"/proc/{pid}/ns/{name}") as file:
        if os.path.samestat(os.fstat(file.fileno()), os.stat(f"/proc/self/ns/{name}")):
            raise PermissionError("it is ours")
        return call("setns", file.fileno(), 0)


for name in ("mnt", "net", "pid", "user", "ipc", "uts", "cgroup"):
    add(f"namespaces: join {name} of the first process", _joined, 1, name)
    add(f"namespaces: join {name} of the worker", _joined, TARGETS["worker"], name)


def _typed(request: int) -> str:
    """Type into a terminal of our own, as into that from which a worker was started."""
    ends = os.openpty()
    try:
        return call("syscall", {"x86_64": 16, "aarch64": 29}[os.uname().machine], ends[1],
                    ctypes.c_ulong(request), ctypes.c_char_p(b"x"))  # fmt: skip
    finally:
        for each in ends:
            os.close(each)


add("terminals: type into one", _typed, TIOCSTI)
add("terminals: type into one by a larger number", _typed, TIOCSTI | HIGH)
add("terminals: paste into one", _typed, TIOCLINUX)


@attempt("terminals: type into the worker's")
def worker_terminal() -> str:
    """Open the terminal of the session, and type."""
    with open("/dev/tty", "w") as terminal:
        fcntl.ioctl(terminal, TIOCSTI, b"x")
        return "typed"


@attempt("devices: any but those of programs")
def devices() -> object:
    """Devices that are no streams of nothing and no terminals."""
    known = {"null", "zero", "full", "random", "urandom", "tty", "console", "ptmx", "pts", "shm",
             "fd", "stdin", "stdout", "stderr", "core"}  # fmt: skip
    return found(sorted(set(os.listdir("/dev")) - known))


for name in ("sda", "vda", "nvme0n1", "loop-control", "fuse", "kvm", "vsock", "net/tun", "mapper/control",
             "uinput", "input/event0", "dri/card0", "nvidia0", "vhost-vsock", "userfaultfd"):  # fmt: skip
    add(f"devices: {name}", done, os.open, f"/dev/{name}", os.O_RDWR)
