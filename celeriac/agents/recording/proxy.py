"""Puts the tape between a runner and its providers for the time of one attempt."""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import structlog

from celeriac.agents.models import Provider
from celeriac.agents.recording.fetch import SecretMasker
from celeriac.agents.recording.recorder import Playback, Recorder
from celeriac.agents.recording.server import HttpRequest, LoopbackServer, ResponseWriter
from celeriac.domain.cassettes import Replayer
from celeriac.domain.errors import DatabaseUnavailableError, ProviderError
from celeriac.domain.executions.events import EventType
from celeriac.kit.json_types import JsonObject
from celeriac.kit.threads import FILES
from celeriac.services.ports import Job, RunContext

logger = structlog.get_logger(__name__)

_NOT_FOUND = 404

Handle = Callable[[str, str, HttpRequest, ResponseWriter], Awaitable[None]]
"""Answers a request to a provider, whose path begins behind the provider's base URL."""


class RecordingProxy:
    """What a runner sees of the tape: other base URLs for its providers, or the same ones."""

    active = False
    """Whether there is a tape: base URLs differ from run to run."""
    plays = False
    """Whether requests are answered from a cassette: no provider and no key is needed."""

    def base_url(self, provider: str, upstream: str) -> str:
        """Return the base URL at which to reach `provider` in place of `upstream`."""
        del provider
        return upstream

    def reached(self, provider: Provider) -> Provider:
        """Return `provider` as it is reached over the tape."""
        return replace(provider, base_url=self.base_url(provider.name, provider.base_url))


class _RunningProxy(RecordingProxy):
    """A tape with its server. What doesn't know the server's secret path gets nothing."""

    active = True

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._secret = secrets.token_urlsafe(16)
        self._names: list[str] = []
        self.server = LoopbackServer(self.answer)

    def base_url(self, provider: str, upstream: str) -> str:
        if provider not in self._names:
            self._names.append(provider)
        place = self._names.index(provider)
        self.routed(provider, upstream)
        return f"http://127.0.0.1:{self.server.port}/{self._secret}/{place}"

    def routed(self, provider: str, upstream: str) -> None:
        """Learn where a provider is."""

    async def answer(self, incoming: HttpRequest, answer: ResponseWriter) -> None:
        """Answer a request, if it came by one of the base URLs."""
        _, secret, place, rest = (*incoming.target.split("/", 3), "", "", "")[:4]
        known = place.isdecimal() and int(place) < len(self._names)
        if not (known and secrets.compare_digest(secret, self._secret)):
            await answer.begin(_NOT_FOUND, [])
            await answer.end()
            return
        await self._handle(self._names[int(place)], f"/{rest}", incoming, answer)


class _Recording(_RunningProxy):
    def __init__(self, recorder: Recorder) -> None:
        super().__init__(recorder.handle)
        self._recorder = recorder

    def routed(self, provider: str, upstream: str) -> None:
        self._recorder.route(provider, upstream)


class _Playing(_RunningProxy):
    plays = True


@asynccontextmanager
async def taping(
    job: Job, context: RunContext, *, keys: Iterable[str] = (), workdir: Path | None = None
) -> AsyncIterator[RecordingProxy]:
    """Record the model traffic of the block, or play a cassette to it, as the job's options say.

    Without such an option it does nothing. `keys` are never recorded, nor is what requests carry
    as keys. The path of `workdir` is recorded by another name, under which any run has its own.
    Raises CassetteUnavailableError before the block, and behind it CassetteMismatchError in the
    place of what else the block raised, where a request had no answer.
    """
    words = SecretMasker(keys, workdir)
    if job.options.cassette_id is not None:
        async with _playing(job, context, words) as tape:
            yield tape
    elif job.options.record:
        async with _recording(job, context, words) as tape:
            yield tape
    else:
        yield RecordingProxy()


@asynccontextmanager
async def _playing(
    job: Job, context: RunContext, words: SecretMasker
) -> AsyncIterator[RecordingProxy]:
    cassette = await context.cassette()
    # reading all requests of a long recording takes seconds
    player = await FILES.run(Replayer, cassette, attempt=job.attempt)
    playback = Playback(player, words)
    tape = _Playing(playback.handle)
    try:
        async with tape.server:
            yield tape
    except Exception as error:
        if playback.mismatch is not None:
            raise playback.mismatch from error
        if isinstance(error, ProviderError):
            error.retry_after = None  # there is nobody to wait for
        raise
    if playback.mismatch is not None:
        raise playback.mismatch
    _raise_fault(tape)


@asynccontextmanager
async def _recording(
    job: Job, context: RunContext, words: SecretMasker
) -> AsyncIterator[RecordingProxy]:
    recorder = Recorder(words, attempt=job.attempt)
    tape = _Recording(recorder)
    try:
        async with recorder, tape.server:
            yield tape
        _raise_fault(tape)
    finally:
        await _keep(context, recorder)


def _raise_fault(tape: _RunningProxy) -> None:
    if tape.server.fault is not None:
        raise tape.server.fault


async def _keep(context: RunContext, recorder: Recorder) -> None:
    """Store what was recorded; the work goes on where that can't be done, and says so."""
    interactions = recorder.interactions()
    if not interactions and recorder.complete:
        return
    try:
        complete = await context.record(interactions, complete=recorder.complete)
    except DatabaseUnavailableError as error:
        logger.warning("cassette.not_kept", error=error.message)
        await context.emit(EventType.LOG, _warning(f"Nothing was recorded: {error.message}"))
        return
    if not complete:
        await context.emit(
            EventType.LOG,
            _warning("The cassette has reached its size limit; what follows is not recorded."),
        )


def _warning(message: str) -> JsonObject:
    return {"level": "warning", "message": message, "source": "cassette"}
