"""Connections of a confined program, one after the other, by the proxy of its attempt.

Run by its path, inside. The job's variable `steps` has lists: a kind and its arguments.
"""

import contextlib
import json
import os
import socket
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

SECONDS = 20.0


def proxy() -> socket.socket:
    """Connect to the proxy as the environment names it."""
    host, _, port = os.environ["HTTP_PROXY"].removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), SECONDS)


def get(url: str, send: int = 0) -> Any:
    """Request a URL as Python's library does; with a body of so many bytes."""
    body = b"x" * send if send else None
    try:
        with urllib.request.urlopen(url, body, SECONDS) as answer:
            text = answer.read()
            return [answer.status, len(text) if len(text) > 1_000 else text.decode()]
    except urllib.error.HTTPError as error:
        return [error.code, error.read().decode()]


def tunnel(target: str, *words: str) -> Any:
    """Open a tunnel, send words, and return what comes back; the first line only if refused."""
    with proxy() as connection:
        connection.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(1) or b"\r\n\r\n"
        if b" 200 " not in head:
            return head.split(b"\r\n")[0].decode()
        for word in words:
            connection.sendall(word.encode())
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65_536), b"")).decode()


def tls(target: str, name: str | None) -> Any:
    """Open a tunnel, send the first message of TLS for a host, and return the first byte back."""
    context = ssl.create_default_context()
    context.check_hostname = False
    outgoing = ssl.MemoryBIO()
    with proxy() as connection:
        connection.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        connection.recv(1_000)
        with contextlib.suppress(ssl.SSLWantReadError):
            context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name).do_handshake()
        hello = outgoing.read()
        connection.sendall(hello[:50])  # in two parts
        connection.sendall(hello[50:])
        return list(connection.recv(1))


def raw(text: str) -> Any:
    """Send text to the proxy, and return the first line that comes back."""
    with proxy() as connection:
        connection.sendall(text.encode())
        return connection.recv(65_536).split(b"\r\n")[0].decode()


def slow() -> Any:
    """Send the beginning of a request, and return what comes until the proxy closes."""
    with proxy() as connection:
        connection.sendall(b"GET http://")
        return connection.recv(1).decode()


def many(target: str, count: int) -> Any:
    """Open many connections that send nothing, then one that does."""
    idle = [proxy() for _ in range(count)]
    for each in idle[: count // 2]:
        each.sendall(b"CONNECT ")
    for each in idle:
        each.close()
    return tunnel(target, "after all")


def around(host: str, port: int) -> Any:
    """Connect without the proxy."""
    try:
        with socket.create_connection((host, port), 2):
            return "connected"
    except OSError as error:
        return type(error).__name__


KINDS: dict[str, Callable[..., Any]] = {
    "get": get, "tunnel": tunnel, "tls": tls, "raw": raw, "slow": slow, "many": many,
    "around": around,
}  # fmt: skip


def done(kind: str, *arguments: Any) -> Any:
    """Return what a step got, or its error."""
    try:
        return KINDS[kind](*arguments)
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    START = json.loads(sys.stdin.readline())
    RESULTS = [done(*step) for step in START["job"]["variables"]["steps"]]
    print(json.dumps({"type": "result", "value": RESULTS}))
