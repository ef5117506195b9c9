"""Prepares a child process: it dies with its parent, has limits, and runs as another user.

Standard library only, without project imports: this file is also run by its path as a small program
that prepares itself and then becomes another program (`celeriac.kit.processes.launch`). It replaces
`preexec_fn`, which may deadlock in a process with threads.
"""

import ctypes
import errno
import fcntl
import os
import resource
import signal
import stat
import sys
import warnings  # noqa: F401 - os.execvp needs it, as a user who may not reach this Python
from collections.abc import Sequence

TYPE_CHECKING = False  # importing typing takes longer than all the rest
if TYPE_CHECKING:
    import socket

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000  # unshare(2)
_SIOCSIFFLAGS, _IFF_UP, _IFF_RUNNING = 0x8914, 0x1, 0x40  # netdevice(7)
_LOOPBACK = "127.0.0.1"
_BACKLOG = 128
ALONE, SHARED, ELSEWHERE = "alone", "shared", "elsewhere"
"""The network of a process with namespaces of its own: a loopback of its own, or the machine's. Or
the program makes the namespaces, and hands the listening sockets over itself."""
LISTENERS = "CELERIAC_CHILD_LISTENERS"
"""The variable that passes the channel and the ports on to such a program."""
_KEYCTL = {"x86_64": 250, "aarch64": 219}
"""Numbers of keyctl(2), for which the C library has no function, by machine."""
_JOIN_SESSION_KEYRING = 1
_F_SETSIG = 10  # fcntl(2); the fcntl module has no name for it
_REPORT_RESERVE = 16 * 1024 * 1024
_INHERITED = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGCHLD,
    signal.SIGPIPE,
    signal.SIGXFSZ,
)

CANNOT_GUARD = 126
CANNOT_EXECUTE = 127
"""Exit codes of the program, as of a shell: it could not set up, or not run the other program."""
SIGNALLED = 128
"""The exit code of a shell is this plus the number of the signal that killed its program."""

NO_GUARD, NO_PROGRAM = "cannot set up ", "cannot run "
GUARD_FAULTS = (NO_GUARD, NO_PROGRAM)
"""The beginnings of its line on stderr in these cases."""


def set_parent_death_signal(number: int, parent: int) -> None:
    """Have the kernel send this process the signal `number` when its parent ends.

    `parent` is the pid of the parent, passed by the parent. Raises ProcessLookupError where the
    parent has ended already, since the signal would never come; OSError where the kernel refuses.

    The kernel watches the parent's *thread* that forked, not its process: start children from a
    thread that outlives them (prctl(2), PR_SET_PDEATHSIG). The setting survives exec, but not a
    change of user: change users first.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl(PR_SET_PDEATHSIG): {os.strerror(error)}")
    if os.getppid() != parent:
        raise ProcessLookupError(f"the parent process {parent} has ended already")


def kill_group_at_hangup(pipe: int) -> None:
    """Have the kernel kill our whole process group when the last writer of `pipe` closes it.

    `pipe` is the read end of a pipe whose other end only the parent holds and never writes to; it
    must stay open here. Stronger than a parent-death signal: it reaches the other processes of the
    group too, and depends on the parent's process, not on one of its threads. Do not use both: the
    death signal is sent when the forking thread ends, perhaps before the parent's files are closed,
    and would kill the leader before the hangup reaches its group. Works by asynchronous I/O
    notification (fcntl(2), F_SETOWN with a group, F_SETSIG, O_ASYNC).
    """
    fcntl.fcntl(pipe, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(pipe, _F_SETSIG, signal.SIGKILL)
    flags = fcntl.fcntl(pipe, fcntl.F_GETFL)
    fcntl.fcntl(pipe, fcntl.F_SETFL, flags | os.O_ASYNC | os.O_NONBLOCK)
    try:
        ended = os.read(pipe, 1) == b""
    except BlockingIOError:
        ended = False
    if ended:
        raise ProcessLookupError("the parent process has ended already")


def hide_memory() -> None:
    """Keep other processes of our user from tracing us and reading our memory and environment.

    Root still can. The setting is inherited over fork, but not over exec (PR_SET_DUMPABLE); there
    are no core files either. Does nothing where the kernel refuses.
    """
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def limit_resources(
    *,
    memory: int | None = None,
    cpu_seconds: int | None = None,
    descriptors: int | None = None,
    processes: int | None = None,
    file_bytes: int | None = None,
) -> None:
    """Set this process's own limits, which its children inherit; write no core files.

    `memory` in bytes limits what each process may allocate, by RLIMIT_DATA: since Linux 4.7 it
    counts every private writable mapping, so heap from brk and from mmap. RLIMIT_AS would also
    count reserved address space and stop healthy programs with threads or a JIT. Memory in
    MAP_SHARED mappings is not counted. An excess shows as MemoryError (ENOMEM). The hard limit is
    16 MiB higher: `release_reserve` gives a program that room to report the excess.
    `cpu_seconds` ends the process with SIGXCPU, and a second later with SIGKILL. `descriptors` is
    the soft limit of open files; the hard one stays. `processes` bounds the processes and threads
    of our user in our user namespace, `file_bytes` the size of each file that is written.
    """
    _lower(resource.RLIMIT_CORE, 0, 0)
    if memory is not None:
        _lower(resource.RLIMIT_DATA, memory, memory + _REPORT_RESERVE)
    if cpu_seconds is not None:
        _lower(resource.RLIMIT_CPU, cpu_seconds, cpu_seconds + 1)
    if processes is not None:
        _lower(resource.RLIMIT_NPROC, processes, processes)
    if file_bytes is not None:
        _lower(resource.RLIMIT_FSIZE, file_bytes, file_bytes)
    if descriptors is not None:
        _lower(resource.RLIMIT_NOFILE, descriptors, resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def become_user(user: int, group: int) -> None:
    """Give up root for good: take the ids of a user, with `group` as the only group.

    Raises PermissionError where we aren't root.
    """
    os.setgroups([group])
    os.setgid(group)
    os.setuid(user)


def leave_keyring() -> None:
    """Have an empty session keyring: that of the parent may hold keys, such as Kerberos tickets.

    A change of user, namespaces and exec all pass it on. Call it as root, if we are: the keyrings
    of others are counted. Does nothing where the kernel refuses all use of keys. Raises OSError.
    """
    number = _KEYCTL.get(os.uname().machine)
    if number is None:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(ctypes.c_long(number), _JOIN_SESSION_KEYRING, None) < 0:
        error = ctypes.get_errno()
        if error not in (errno.ENOSYS, errno.EPERM):
            raise OSError(error, f"keyctl: {os.strerror(error)}")


def enter_namespaces(*, alone: bool) -> None:
    """Continue in a user namespace of our own and, if `alone`, in a network of our own.

    That network has only a loopback. The user and the group stay the same; processes are counted
    from zero in the namespace. Raises OSError where the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    # after a change of user our files in /proc belong to root
    libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
    if libc.unshare(_CLONE_NEWUSER | (_CLONE_NEWNET if alone else 0)) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"unshare: {os.strerror(error)}")
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:  # noqa: PTH123 - pathlib takes 10 ms to load
            file.write(text)
    if alone:
        _start_loopback()


def _start_loopback() -> None:
    import socket
    import struct

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh14x", b"lo", _IFF_UP | _IFF_RUNNING)
        fcntl.ioctl(control, _SIOCSIFFLAGS, request)


def hand_over_listeners(channel: int, ports: Sequence[int]) -> None:
    """Listen on `ports` of our loopback, and give these sockets to the parent over `channel`.

    A socket stays in the network where it was made: the parent accepts connections from there,
    without a process of its own in it.
    """
    import socket

    with socket.socket(fileno=channel) as parent:
        listeners = loopback_listeners(ports)
        socket.send_fds(parent, [b"."], [each.fileno() for each in listeners])
    for listener in listeners:
        listener.close()


def loopback_listeners(ports: Sequence[int]) -> "list[socket.socket]":
    """Return sockets that listen on `ports` of our loopback."""
    import socket

    listeners = []
    for port in ports:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listeners.append(listener)
        listener.bind((_LOOPBACK, port))
        listener.listen(_BACKLOG)
    return listeners


def give_pipes(user: int, group: int) -> None:
    """Give the pipes on stdin, stdout and stderr to a user.

    Programs that open /dev/stderr open the pipe again, which only its owner may do.
    """
    for descriptor in (0, 1, 2):
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            os.fchown(descriptor, user, group)


def hold_filter(program: str) -> int:
    """Return a descriptor, passed on, from which a filter of system calls in hex can be read."""
    descriptor = os.memfd_create("filter", 0)
    os.write(descriptor, bytes.fromhex(program))
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def let_go_of_pipes() -> None:
    """Leave stdin and stdout to the program that was started, so that their ends are seen."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):
        os.dup2(nothing, descriptor)
    os.close(nothing)


def exit_code(status: int) -> int:
    """Return the exit code, as a shell gives it, for a status of waitpid(2)."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else SIGNALLED - code


def reap_all(child: int) -> int | None:
    """Reap all children that have ended; return the exit code of `child` if it is among them."""
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if pid == 0:
            return code
        if pid == child:
            code = exit_code(status)


def release_reserve() -> None:
    """Raise the memory limit of `limit_resources` by its reserve, to report an excess."""
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))


def reset_signals() -> None:
    """Undo ignored and blocked signals, which exec passes on.

    A Celery child ignores SIGINT, the Python interpreter SIGPIPE and SIGXFSZ.
    """
    for number in _INHERITED:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _lower(kind: int, soft: int, hard: int) -> None:
    """Set a limit, never above the hard limit in force."""
    ceiling = resource.getrlimit(kind)[1]
    if ceiling != resource.RLIM_INFINITY:
        soft, hard = min(soft, ceiling), min(hard, ceiling)
    resource.setrlimit(kind, (soft, hard))


def _enter(network: str, listeners: str, calls: str) -> list[str]:
    """Enter the namespaces, and return the options of bubblewrap for the filter."""
    if network == ELSEWHERE:
        os.environ[LISTENERS] = listeners
        return []
    if network:
        enter_namespaces(alone=network == ALONE)
    if listeners:
        channel, _, ports = listeners.partition(":")
        hand_over_listeners(int(channel), [int(each) for each in ports.split(",")])
    return ["--seccomp", str(hold_filter(calls))] if calls else []


def _optional(text: str) -> int | None:
    return int(text) if text else None


def main(arguments: Sequence[str]) -> int:
    """Prepare this process and become the program after the thirteen settings in `arguments`.

    Arguments: death signal, parent pid, memory, CPU seconds, user id, group id, pipe of
    `kill_group_at_hangup`, soft limit of open files, processes, bytes of a file, network of
    `enter_namespaces`, channel and ports of `hand_over_listeners` as `channel:port,port`, filter of
    system calls in hex, which bubblewrap installs (empty: none), program, its own arguments.
    Returns an exit code only where that failed; the reason is on stderr.
    """
    number, parent, memory, cpu_seconds, user, group, pipe, descriptors, *others = arguments
    processes, file_bytes, network, listeners, calls, *command = others
    try:
        reset_signals()
        if pipe:
            kill_group_at_hangup(int(pipe))  # as root: it reaches processes that change users
        if user or network:
            leave_keyring()
        if user:
            give_pipes(int(user), int(group))
            become_user(int(user), int(group))  # before the death signal, which it would clear
        if not pipe:
            set_parent_death_signal(int(number), int(parent))
        command[1:1] = _enter(network, listeners, calls)
        limit_resources(
            memory=_optional(memory),
            cpu_seconds=_optional(cpu_seconds),
            descriptors=_optional(descriptors),
            processes=_optional(processes),
            file_bytes=_optional(file_bytes),
        )
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{NO_GUARD}{command[0]}: {error}\n")
        return CANNOT_GUARD
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.stderr.write(f"{NO_PROGRAM}{command[0]}: {error.strerror}\n")
    return CANNOT_EXECUTE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
