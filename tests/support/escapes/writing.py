"""Files outside of the working directory, settings of the kernel and control groups."""

import os
import socket
import stat
import time
from contextlib import suppress
from pathlib import Path

from tests.support.escapes.table import TARGETS, add, attempt, done, found, written

SECRET, OTHER, WORKER = TARGETS["secret"], TARGETS["other"], TARGETS["worker"]

for place in (
    "/x", "/usr/x", "/usr/bin/x", "/usr/local/bin/x", "/bin/x", "/lib/x", "/etc/x", "/dev/x",
    "/etc/passwd", "/etc/hosts", "/etc/resolv.conf", "/etc/ld.so.cache", "/usr/bin/env",
    "/proc/x", "/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname",
    "/proc/sys/kernel/modprobe", "/proc/sys/kernel/randomize_va_space",
    "/proc/sys/kernel/yama/ptrace_scope", "/proc/sys/fs/binfmt_misc/register",
    "/proc/sys/fs/suid_dumpable", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/vm/drop_caches",
    "/proc/sys/vm/overcommit_memory", "/proc/sys/user/max_user_namespaces",
    "/proc/self/uid_map", "/proc/self/gid_map", "/proc/self/setgroups", "/proc/1/mem",
    "/proc/irq/default_smp_affinity", "/proc/bus/pci/devices", "/proc/acpi/wakeup",
    "/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/release_agent", "/sys/kernel/uevent_helper",
    "/sys/power/state", "/run/x", "/var/x", "/root/x", "/home/x", "/var/spool/cron/crontabs/root",
):  # fmt: skip
    add(f"writing: {place}", written, place)
add("writing: a secret", written, SECRET)
add("writing: another session", written, OTHER)
add("writing: a saved archive", written, TARGETS["archive"])
add("writing: an object of the store", written, TARGETS["object"])
add("writing: beside the secrets", written, f"{Path(SECRET).parent}/new")
add("writing: our program", written, __file__)
add("writing: Python", written, os.path.realpath("/proc/self/exe"))
add("writing: the worker's rank among those to kill", written, f"/proc/{WORKER}/oom_score_adj")
add(
    "writing: another name for our directory", lambda: done(os.rename, Path.cwd(), f"{Path.cwd()}-")
)
add("writing: a file's owner", lambda: done(os.chown, Path.cwd(), 12345, 12345))
add("writing: a device of the disk", done, os.mknod, "disk", 0o60666, os.makedev(8, 0))
add("writing: a device of the memory", done, os.mknod, "memory", 0o20666, os.makedev(1, 1))
add("writing: the host name", lambda: done(socket.sethostname, socket.gethostname()))
add("writing: the clock", lambda: done(time.clock_settime, time.CLOCK_REALTIME, time.time()))
add(
    "writing: our own rank above all others",
    lambda: Path("/proc/self/oom_score_adj").write_text("-1000"),
)


@attempt("writing: anywhere that lets us")
def anywhere() -> object:
    """Try each directory near the root; ours, /tmp and /dev/shm are the only ones."""
    ours, open_ones = (str(Path.cwd()), "/tmp", "/dev/shm"), []
    own = [str(Path.cwd()), *TARGETS["writes"]]
    for top, names, _ in os.walk("/"):
        if top.startswith("/proc") or any(
            top == each or top.startswith(f"{each}/") for each in (*own, "/tmp", "/dev/shm")
        ):
            names.clear()
            continue
        if top.count("/") >= 4:
            names.clear()
        with suppress(OSError):
            probe = Path(top, f"probe-{os.getpid()}")
            probe.touch()
            probe.unlink()
            open_ones.append(top)
    return found([each for each in open_ones if each not in ours])


@attempt("writing: by a file with the rights of its owner")
def owned() -> object:
    """A program of ours with the bit that makes it run as its owner: it is nobody else."""
    program = Path("owned")
    program.write_bytes(Path("/usr/bin/id").read_bytes())
    program.chmod(0o6755)
    try:
        if not program.stat().st_mode & stat.S_ISUID:
            raise PermissionError("the bit is gone")
        with os.popen("./owned -u; ./owned -un") as output:
            user = output.read().split()[0]
    finally:
        program.unlink()
    return found(user if user != str(os.getuid()) else "")


@attempt("writing: control groups")
def control_groups() -> object:
    """Any place in which a group could be made or left."""
    lines = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return found([each[1] for each in lines if each[2].startswith("cgroup")])
