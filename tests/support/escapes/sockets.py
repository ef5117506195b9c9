"""Servers of the machine and of its network, past the proxy."""

import os
import socket
from contextlib import suppress

from tests.support.escapes.table import TARGETS, add, attempt, connected, done, found

PORT, PORT_6, UDP = TARGETS["port"], TARGETS["port_6"], TARGETS["udp"]
AF_ALG, AF_VSOCK, AF_XDP, AF_TIPC, AF_BLUETOOTH, AF_CAN, AF_RDS = 38, 40, 44, 30, 31, 29, 21
HIGH = 7 << 32
METADATA = ("169.254.169.254", "169.254.170.2", "169.254.170.23", "100.100.100.200",
            "168.63.129.16", "192.0.0.192")  # fmt: skip
"""Of Amazon and most others, Amazon's containers and pods, Alibaba, Azure, Oracle."""

for title, name in (
    ("a server", "127.0.0.1"), ("a server by another loopback", "127.8.8.8"),
    ("a server by zero", "0.0.0.0"), ("a server by the machine's address", TARGETS["address"]),
    ("a server by its name", "localhost"), ("a server by the machine's name", TARGETS["host"]),
):  # fmt: skip
    add(f"sockets: {title}", connected, socket.AF_INET, (name, PORT))
for title, port in TARGETS["services"].items():
    add(f"sockets: {title}", connected, socket.AF_INET, ("127.0.0.1", port))
for name in ("::1", "::", "::ffff:127.0.0.1", f"::ffff:{TARGETS['address']}"):
    port = PORT if "ffff" in name else PORT_6
    add(f"sockets: a server at {name}", connected, socket.AF_INET6, (name, port))
for name in METADATA:
    add(f"sockets: metadata at {name}", connected, socket.AF_INET, (name, 80))
for name in ("fd00:ec2::254", "fe80::a9fe:a9fe", "::ffff:169.254.169.254"):
    add(f"sockets: metadata at {name}", connected, socket.AF_INET6, (name, 80, 0, 2))
for name in ("10.0.0.1", "172.17.0.1", "192.168.0.1", "192.0.2.1", "1.1.1.1"):
    add(f"sockets: the network at {name}", connected, socket.AF_INET, (name, 80))
add(
    "sockets: a datagram to a server",
    connected,
    socket.AF_INET,
    (TARGETS["address"], UDP),
    socket.SOCK_DGRAM,
)
add("sockets: a name server", connected, socket.AF_INET, ("192.0.2.53", 53), socket.SOCK_DGRAM)
add("sockets: the local name server", connected, socket.AF_INET, ("127.0.0.53", 53))
add(
    "sockets: everybody nearby", connected, socket.AF_INET, ("224.0.0.251", 5353), socket.SOCK_DGRAM
)
add("sockets: an abstract one", connected, socket.AF_UNIX, f"\0{TARGETS['abstract']}")
add("sockets: one with a path", connected, socket.AF_UNIX, TARGETS["socket"])
add(
    "sockets: one with a path, from the worker",
    connected,
    socket.AF_UNIX,
    f"/proc/{TARGETS['worker']}/root{TARGETS['socket']}"[:100],
)
for name in ("/var/run/docker.sock", "/run/containerd/containerd.sock", "/run/dbus/system_bus_socket",
             "/run/systemd/private", "/run/postgresql/.s.PGSQL.5432", "/tmp/.X11-unix/X0",
             "/run/snapd.socket"):  # fmt: skip
    add(f"sockets: {name}", connected, socket.AF_UNIX, name)
for name in ("example.com", "metadata.google.internal", f"{os.getpid()}.attacker.example.com"):
    add(f"sockets: the name {name}", done, socket.getaddrinfo, name, 80)
add("sockets: raw", done, socket.socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
add("sockets: pings", connected, socket.AF_INET, ("192.0.2.1", 0), socket.SOCK_RAW)
add("sockets: packets", done, socket.socket, socket.AF_PACKET, socket.SOCK_RAW)
for title, family in (
    ("the host of the machine", AF_VSOCK), ("the kernel's ciphers", AF_ALG),
    ("packets by maps", AF_XDP), ("clusters", AF_TIPC), ("radio", AF_BLUETOOTH), ("vehicles", AF_CAN),
    ("datagrams of clusters", AF_RDS),
):  # fmt: skip
    add(f"sockets: {title}", done, socket.socket, family, socket.SOCK_SEQPACKET)
    add(f"sockets: {title}, as a pair", done, socket.socketpair, family, socket.SOCK_SEQPACKET)


@attempt("sockets: the host of the machine by a larger number")
def vsock() -> str:
    """The kernel reads 32 bits of the family."""
    import ctypes

    number = {"x86_64": 41, "aarch64": 198}[os.uname().machine]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number, ctypes.c_ulong(AF_VSOCK | HIGH), 1, 0) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return "made one"


@attempt("sockets: interfaces of the machine")
def interfaces() -> object:
    """Any but a loopback of our own."""
    return found([name for _, name in socket.if_nameindex() if name != "lo"])


@attempt("sockets: all ports of the loopback")
def all_ports() -> object:
    """What listens there besides the two servers of the attempt."""
    reached = []
    for port in {*range(1, 1_024), 5432, 5672, 6379, 8000, 8080, *TARGETS["services"].values()}:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
            reached.append(port)
    return found(reached)


@attempt("sockets: names of sockets of the machine")
def names() -> object:
    """Abstract sockets of others, which the kernel lists."""
    with open("/proc/net/unix") as file:
        return found([line for line in file if TARGETS["abstract"] in line])
