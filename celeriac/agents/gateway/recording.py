"""Records the model traffic of an attempt, or answers it from a cassette (docs/adr/0009)."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import httpx2
import structlog

from celeriac.agents.gateway.headers import without_hop_headers
from celeriac.agents.gateway.waiting import wait_of
from celeriac.agents.models import Provider
from celeriac.domain.cassettes import (
    MAX_BYTES,
    REQUEST_HEADERS,
    RESPONSE_HEADERS,
    Interaction,
    JsonEvent,
    Request,
    Response,
    dump_line,
    read_body,
    write_body,
)
from celeriac.domain.errors import CassetteMismatchError, DatabaseUnavailableError, ProviderError
from celeriac.domain.executions.events import EventType
from celeriac.domain.replay import Replayer, ReplayResult, joined
from celeriac.kit.json_types import dumps, loads
from celeriac.kit.threads import FILES
from celeriac.services.ports import Job, RunContext

logger = structlog.get_logger(__name__)

_CONNECT_SECONDS = 10.0
_GRACE_SECONDS = 1.0
"""Seconds that an answer is still recorded after its reader has closed it."""

_ERRORS = 400
_BAD_REQUEST = 400
_BAD_GATEWAY = 502
_RETRY_NOW = {"retry-after": "0", "retry-after-ms": "1", "x-should-retry": "true"}
_NO_RETRY = {"x-should-retry": "false"}


class Traffic:
    """How the requests of one attempt reach their providers: here, directly."""

    replays = False
    """Whether a cassette answers them: no provider and no key is needed."""
    direct = True
    """Whether they need no transport of their own."""

    def transport(self, provider: Provider) -> httpx2.AsyncBaseTransport | None:
        """Return the transport of an HTTP client of `provider`; None stands for the usual one."""
        del provider
        return None


@asynccontextmanager
async def recording(
    job: Job, context: RunContext, *, keys: Iterable[str] = (), workdir: Path | None = None
) -> AsyncIterator[Traffic]:
    """Record the model traffic of the block, or replay a cassette, as the job's options say.

    Without such an option it does nothing. `keys` are never recorded, nor is what requests carry
    as keys. The path of `workdir` is recorded by another name, under which any run has its own.
    Raises CassetteUnavailableError before the block, and after it CassetteMismatchError in the
    place of what else the block raised, where a request had no answer.
    """
    masker = SecretMasker(keys, workdir)
    if job.options.cassette_id is not None:
        async with _replaying(job, context, masker) as traffic:
            yield traffic
    elif job.options.record:
        recorder = Recorder(masker, attempt=job.attempt)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(recorder.keep, context)
            stack.push_async_exit(recorder.finish)
            yield recorder
    else:
        yield Traffic()


@asynccontextmanager
async def _replaying(
    job: Job, context: RunContext, masker: "SecretMasker"
) -> AsyncIterator[Traffic]:
    cassette = await context.cassette()
    # reading all requests of a long recording takes seconds
    replayer = await FILES.run(Replayer, cassette, attempt=job.attempt)
    replay = _Replay(replayer, masker)
    try:
        yield replay
    except Exception as error:
        if replay.mismatch is not None:
            raise replay.mismatch from error
        if isinstance(error, ProviderError):
            error.retry_after = None  # there is no provider to wait for
        raise
    if replay.mismatch is not None:
        raise replay.mismatch


class Recorder(Traffic):
    """Keeps requests with their answers, in the order in which the requests began."""

    direct = False

    def __init__(self, masker: "SecretMasker", *, attempt: int) -> None:
        self._masker = masker
        self._attempt = attempt
        self._clients: list[httpx2.AsyncClient] = []
        self._kept: dict[int, Interaction] = {}
        """By the numbers of their requests."""
        self._size = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._complete = True

    def transport(self, provider: Provider) -> httpx2.AsyncBaseTransport:
        """Return a transport that sends requests to `provider` and records them."""
        client = httpx2.AsyncClient(
            timeout=httpx2.Timeout(None, connect=_CONNECT_SECONDS),
            follow_redirects=True,
            trust_env=not provider.on_loopback,
        )
        self._clients.append(client)
        # despite its name it calls any function for each request
        return httpx2.MockTransport(partial(self._send, client, provider))

    async def keep(self, context: RunContext) -> None:
        """Store what was recorded, without the requests that were given up.

        A failure to do so is logged, and does not end the attempt.
        """
        interactions = [self._kept[place] for place in sorted(self._kept)]
        if not interactions and self._complete:
            return
        try:
            if await context.record(interactions, complete=self._complete):
                return
            warning = "The cassette has reached its size limit; what follows is not recorded."
        except DatabaseUnavailableError as error:
            logger.warning("cassette.not_kept", error=error.message)
            warning = f"Nothing was recorded: {error.message}"
        step = {"level": "warning", "message": warning, "source": "cassette"}
        await context.emit(EventType.LOG, step)

    async def _send(
        self, client: httpx2.AsyncClient, provider: Provider, request: httpx2.Request
    ) -> httpx2.Response:
        """Send a request, and return the answer as it comes."""
        self._masker.learn(request)
        exchange = _Exchange(client, request)
        place = len(self._tasks)
        exchange.task = asyncio.create_task(self._record(exchange, provider, place))
        self._tasks.append(exchange.task)
        try:
            await exchange.begun.wait()
        except BaseException:
            exchange.task.cancel()
            raise
        return httpx2.Response(exchange.status, headers=exchange.headers, stream=exchange)

    async def _record(self, exchange: "_Exchange", provider: Provider, place: int) -> None:
        await exchange.run()
        if not self._complete:
            return
        interaction = Interaction(
            attempt=self._attempt,
            provider=provider.name,
            request=_request_of(exchange.request, provider, self._masker),
            response=_response_of(exchange, self._masker),
        )
        self._size += len(dump_line(interaction))
        if self._size > MAX_BYTES:
            self._complete = False
        else:
            self._kept[place] = interaction

    async def finish(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        """Wait for the ends of answers, unless the work was cancelled; arguments of `__aexit__`."""
        going = [task for task in self._tasks if not task.done()]
        if going and not isinstance(error, asyncio.CancelledError):
            await asyncio.wait(going, timeout=_GRACE_SECONDS)
        for task in going:
            task.cancel()
        ends = await asyncio.gather(*self._tasks, return_exceptions=True)
        for client in self._clients:
            await client.aclose()
        for end in ends:
            if isinstance(end, Exception) and error is None:
                raise end


class _Exchange(httpx2.AsyncByteStream):
    """A request that is sent in a task of its own: its answer may end after its reader left."""

    task: asyncio.Task[None]

    def __init__(self, client: httpx2.AsyncClient, request: httpx2.Request) -> None:
        self.request = request
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.begun = asyncio.Event()
        """Set once the answer has a status."""
        self.error: Exception | None = None
        """What broke the connection off before the answer was complete."""
        self._client = client
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def run(self) -> None:
        """Send the request and keep the answer; an unreachable provider becomes a 502."""
        sent = self.request
        headers = sent.headers.copy()
        headers["accept-encoding"] = "identity"  # what is kept should be readable
        try:
            async with self._client.stream(
                sent.method, sent.url, headers=headers, content=sent.content
            ) as response:
                self.status = response.status_code
                self.headers = without_hop_headers(response.headers.items())
                self.begun.set()
                async for piece in response.aiter_bytes():
                    self._add(piece)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            if self.status:
                self.error = error
            else:
                self.status, self.headers = _BAD_GATEWAY, {"content-type": "application/json"}
                message = f"The provider can't be reached: {str(error) or type(error).__name__}"
                self._add(dumps({"error": {"message": message, "type": "unreachable"}}).encode())
        finally:
            self.begun.set()
            self._pieces.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (piece := await self._pieces.get()) is not None:
            yield piece
        if self.error is not None:
            raise self.error

    async def aclose(self) -> None:
        asyncio.get_running_loop().call_later(_GRACE_SECONDS, self.task.cancel)

    def _add(self, piece: bytes) -> None:
        if len(self.body) <= MAX_BYTES:  # a longer answer is not kept
            self.body += piece
        self._pieces.put_nowait(piece)


class _Replay(Traffic):
    """Answers the requests of one attempt from a cassette."""

    direct = False
    replays = True

    def __init__(self, replayer: Replayer, masker: "SecretMasker") -> None:
        self._replayer = replayer
        self._masker = masker
        self.mismatch: CassetteMismatchError | None = None
        """The first request that had no answer."""

    def transport(self, provider: Provider) -> httpx2.AsyncBaseTransport:
        return httpx2.MockTransport(partial(self._answer, provider))

    async def _answer(self, provider: Provider, request: httpx2.Request) -> httpx2.Response:
        """Answer a request as it was answered, or refuse it for good."""
        self._masker.learn(request)
        try:
            kept = _request_of(request, provider, self._masker)
            replayed = self._replayer.answer(provider.name, kept)
        except CassetteMismatchError as error:
            self.mismatch = self.mismatch or error
            # in the form of both OpenAI and Anthropic
            fault = {"type": "invalid_request_error", "code": error.code, "message": error.message}
            refusal = {"type": "error", "error": fault}
            return httpx2.Response(_BAD_REQUEST, headers=_NO_RETRY, json=refusal)
        response = replayed.response
        return httpx2.Response(
            response.status,
            headers=_replayed_headers(replayed),
            content=_replayed_body(response, self._masker),
        )


async def _replayed_body(response: Response, masker: "SecretMasker") -> AsyncIterator[bytes]:
    for chunk in write_body(response):
        await asyncio.sleep(0)  # a long answer shares the loop with others
        yield _changed(chunk, masker.unmasked)
    if response.broken:
        raise httpx2.RemoteProtocolError("the recorded connection broke off")


def _replayed_headers(replayed: ReplayResult) -> dict[str, str]:
    """Return the headers to send: a client repeats a request as recorded, but without a wait."""
    headers = dict(replayed.response.headers)
    if replayed.response.status < _ERRORS:
        return headers
    if "retry-after" in headers:
        headers["retry-after"] = "0"
    headers.pop("retry-after-ms", None)
    return headers | (_RETRY_NOW if replayed.again else _NO_RETRY)


REMOVED = "[removed]"
WORKDIR = "/celeriac/workdir"
"""Stands in cassettes for the execution's working directory, which differs in each run."""

_SECRET_HEADERS = (
    "api-key authorization cookie proxy-authorization x-api-key x-goog-api-key".split()
)
_SECRET_PARAMETER = re.compile(r"(?<=[?&])(key|api[_-]?key|token|access_token)=[^&]*")
_SHORTEST_SECRET = 8
_NOT_PRINTABLE = re.compile(r"[^\x20-\x7e]")
_LONGEST_HEADER = 1_000


class SecretMasker:
    """Replaces texts that no cassette may hold, and restores the working directory."""

    def __init__(self, secrets: Iterable[str], workdir: Path | None) -> None:
        """Remove `secrets`, and write `WORKDIR` in the place of `workdir`."""
        self._secrets = set(secrets)
        self._workdir = None if workdir is None else str(workdir)

    def learn(self, request: httpx2.Request) -> None:
        """Add the keys that a request is sent with to the secrets."""
        for name in _SECRET_HEADERS:
            for value in request.headers.get_list(name):
                self._secrets.add(value.split(" ", 1)[-1].strip())

    def masked(self, text: str) -> str:
        """Return `text` as cassettes hold it."""
        for secret in self._secrets:
            if len(secret) >= _SHORTEST_SECRET:
                text = text.replace(secret, REMOVED)
        return text if self._workdir is None else text.replace(self._workdir, WORKDIR)

    def unmasked(self, text: str) -> str:
        """Return a cassette's text with this run's working directory."""
        return text if self._workdir is None else text.replace(WORKDIR, self._workdir)

    def headers(self, headers: Iterable[tuple[str, str]], known: frozenset[str]) -> dict[str, str]:
        """Return the `known` ones of `headers`."""
        return {
            name.lower(): _NOT_PRINTABLE.sub("?", self.masked(value))[:_LONGEST_HEADER]
            for name, value in headers
            if name.lower() in known
        }


def _request_of(request: httpx2.Request, provider: Provider, masker: SecretMasker) -> Request:
    """Return what is kept of a request; its path begins after the provider's base URL."""
    base = httpx2.URL(provider.base_url).raw_path.decode().rstrip("/")
    path = masker.masked(request.url.raw_path.decode().removeprefix(base))
    return Request(
        method=request.method,
        path=_SECRET_PARAMETER.sub(rf"\1={REMOVED}", path),
        headers=masker.headers(request.headers.items(), REQUEST_HEADERS),
        **read_body(
            _changed(request.content, masker.masked), request.headers.get("content-type", "")
        ),
    )


def _response_of(exchange: _Exchange, masker: SecretMasker) -> Response:
    """Return what is kept of an answer."""
    content = bytes(exchange.body)
    kept = masker.headers(exchange.headers.items(), RESPONSE_HEADERS)
    wait = wait_of(exchange.headers, content) if exchange.status >= _ERRORS else None
    if wait is not None:
        # as a length of time: dates mean something else by the time of a replay
        kept.pop("retry-after", None)
        kept["retry-after-ms"] = str(round(wait * 1000))
    body = read_body(content, kept.get("content-type", ""))
    if "stream" in body:
        body["stream"] = tuple(_masked_item(item, masker) for item in joined(body["stream"]))
    else:
        body = read_body(_changed(content, masker.masked), kept.get("content-type", ""))
    return Response(status=exchange.status, headers=kept, broken=exchange.error is not None, **body)


def _changed(content: bytes, change: Callable[[str], str]) -> bytes:
    """Return `content` as `change` returns it, where it is text."""
    try:
        return change(content.decode()).encode()
    except UnicodeDecodeError:
        return content


def _masked_item(item: JsonEvent | str, masker: SecretMasker) -> JsonEvent | str:
    if isinstance(item, str):
        return masker.masked(item)
    return item.model_copy(update={"data": loads(masker.masked(dumps(item.data)))})
