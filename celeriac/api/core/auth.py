"""Authentication of requests, and the dependencies of routes."""

import asyncio
import hashlib
import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Hashable
from dataclasses import replace
from enum import IntEnum
from typing import Annotated, TypeVar, cast

from fastapi import Depends, Request, Security
from fastapi.dependencies.models import Dependant
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.concurrency import run_in_threadpool

from celeriac import logs
from celeriac.api.core import links
from celeriac.api.core.parameters import Services
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.errors import (
    DatabaseUnavailableError,
    InvitationInvalidError,
    TooManyRequestsError,
    UnauthenticatedError,
    WorkspaceDeniedError,
)
from celeriac.kit.ids import parse_uuid
from celeriac.kit.outbound import network_of
from celeriac.wiring.api import ApiServices

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")

_SCHEME = "bearer"
_bearer = HTTPBearer(
    scheme_name="ApiKey",
    description="An API key, `cel_…`, from `celeriac keys create` or `POST /api/v1/api-keys`.",
    bearerFormat="cel_<prefix>_<secret>",
    auto_error=False,
)


async def _caller(
    request: Request, _: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
) -> AsyncIterator[Actor]:
    # `admit` ran before the body was read; this only returns its result
    actor = cast(Actor, request.state.actor)
    with logs.bind(user_id=actor.user_id):
        yield actor


Caller = Annotated[Actor, Depends(_caller)]
"""A caller with a good key."""


async def _operator(actor: Caller) -> Actor:
    return actor


async def _admin(actor: Caller) -> Actor:
    return actor


async def _administrator(actor: Caller) -> Actor:
    return actor


Operator = Annotated[Actor, Depends(_operator)]
"""A caller who may create and run resources."""

Admin = Annotated[Actor, Depends(_admin)]
"""A caller who may manage members: an admin of the workspace, or an administrator."""

Administrator = Annotated[Actor, Depends(_administrator)]
"""A caller who may manage users, workspaces and the installation."""


WORKSPACE = "Celeriac-Workspace"
"""The header that names one of the workspaces of a user, with a key of their personal one."""


class Needs(IntEnum):
    """What a route needs of its caller; each includes the ones before it."""

    VIEWER = 1
    OPERATOR = 2
    ADMIN = 3
    ADMINISTRATOR = 4


_NEEDS: dict[object, Needs] = {
    _caller: Needs.VIEWER,
    _operator: Needs.OPERATOR,
    _admin: Needs.ADMIN,
    _administrator: Needs.ADMINISTRATOR,
}
_ROLES = {
    Needs.VIEWER: Role.VIEWER,
    Needs.OPERATOR: Role.OPERATOR,
    Needs.ADMIN: Role.ADMIN,
}


def needs(dependant: Dependant) -> Needs | None:
    """Return what a route's parameters say that it needs, None if it needs no key."""
    found = [needs(inner) for inner in dependant.dependencies]
    found.append(_NEEDS.get(dependant.call))
    return max((each for each in found if each is not None), default=None)


async def admit(request: Request, needed: Needs) -> None:
    """Check that a request's key is enough for its route, and store the actor in `request.state`.

    Raises UnauthenticatedError, ForbiddenError or TooManyRequestsError.
    """
    request.state.actor = actor = await _authenticate(request)
    if needed is Needs.ADMINISTRATOR:
        actor.require_administrator()
    elif not (needed is Needs.ADMIN and actor.administrator):
        actor.require(_ROLES[needed])


async def _authenticate(request: Request, *, admitted: bool = False) -> Actor:
    """Return the actor of a request; raises UnauthenticatedError or TooManyRequestsError.

    Reads the database once in five seconds for each key. `admitted` means that the request was
    accepted before: its key is then looked up whatever other keys came from its address.
    """
    token, request_id = _token(request), request.state.request_id
    workspace = request.headers.get(WORKSPACE)
    services = cast(ApiServices, request.app.state.services)
    known = services.authenticate.cached(token, workspace, request_id=request_id)
    if known is not None:
        return known
    lookups = cast(Lookups, request.app.state.lookups)
    address = "" if request.client is None else request.client.host
    # a request that comes after a change doesn't wait for a lookup that began before it
    found = await lookups(
        address,
        token,
        lambda: services.authenticate(token, workspace, request_id=request_id),
        asked=(workspace, services.authenticate.generation),
        admitted=admitted,
    )
    return replace(found, request_id=request_id)


async def optional_caller(request: Request) -> Actor | None:
    """Return the actor of a request to a route that needs no key; None if it has no key.

    Raises UnauthenticatedError for a bad one.
    """
    return await _authenticate(request) if "authorization" in request.headers else None


async def guess(request: Request, token: str, use: Callable[[], T]) -> T:
    """Return the result of `use`, which looks up a secret token. Wrong ones count as bad keys.

    Raises what `use` raises, and TooManyRequestsError.
    """
    bad_keys = cast(BadKeys, request.app.state.bad_keys)
    address = "" if request.client is None else request.client.host
    bad_keys.begin(address, token)
    try:
        result = await run_in_threadpool(use)
    except InvitationInvalidError:
        raise
    except BaseException:
        bad_keys.forgive(address)
        raise
    bad_keys.forgive(address)
    return result


class Lookups:
    """Looks keys up in the database: each one once at a time, and bad ones within a limit."""

    def __init__(self, bad_keys: "BadKeys") -> None:
        """Belongs to one application, and so to one event loop."""
        self._bad_keys = bad_keys
        self._under_way: dict[Hashable, asyncio.Task[Actor]] = {}

    async def __call__(
        self,
        address: str,
        token: str,
        ask: Callable[[], Actor],
        *,
        asked: Hashable = None,
        admitted: bool = False,
    ) -> Actor:
        """Return the result of `ask`, shared by callers with the same key that ask the same.

        Raises what `ask` raises and, unless `admitted`, TooManyRequestsError.
        """
        key = (token, asked)
        task = self._under_way.get(key)
        if task is None:
            self._bad_keys.begin(address, token, admitted=admitted)
            task = asyncio.create_task(self._ask(address, token, ask))
            self._under_way[key] = task
            task.add_done_callback(lambda done: self._forget(key, done))
        return await asyncio.shield(task)

    def _forget(self, key: Hashable, done: asyncio.Task[Actor]) -> None:
        self._under_way.pop(key, None)
        if not done.cancelled():
            done.exception()  # the callers may be gone; asyncio warns of errors that nobody reads

    async def _ask(self, address: str, token: str, ask: Callable[[], Actor]) -> Actor:
        try:
            actor = await run_in_threadpool(ask)
        except WorkspaceDeniedError:
            self._bad_keys.succeeded(address, token)
            raise
        except UnauthenticatedError:
            self._bad_keys.failed(token)
            raise
        except BaseException:
            self._bad_keys.forgive(address)
            raise
        self._bad_keys.succeeded(address, token)
        return actor


CHECK_SECONDS = 5.0
"""An open response is checked with `still_allowed` at least this often."""


async def still_allowed(request: Request) -> bool:
    """Return whether the key of an open request is still good.

    Cheap enough to be called often. True while the database is unavailable. Bad keys from the same
    address don't matter: the request was admitted once, and if its key is bad now it ends.
    """
    try:
        await _authenticate(request, admitted=True)
    except UnauthenticatedError:
        return False
    except DatabaseUnavailableError:
        return True
    return True


def _token(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != _SCHEME or not token.strip():
        raise UnauthenticatedError(
            "There is no API key; send it in the header `Authorization: Bearer cel_…`."
        )
    return token.strip()


class BadKeys:
    """Limits how many bad keys are looked up for each address, in this process.

    The allowance of an address refills over a minute (GCRA: one time per address). A key that was
    good before is looked up in any case, so that guesses from the same address lock nobody out; a
    new key from that address may have to wait.
    """

    def __init__(self, *, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Allow `per_minute` bad keys for each address, all at once or spread."""
        self._interval = 60.0 / per_minute
        self._burst = 60.0
        self._clock = clock
        self._full_at: OrderedDict[str, float] = OrderedDict()
        self._good: OrderedDict[bytes, None] = OrderedDict()

    def begin(self, address: str, token: str, *, admitted: bool = False) -> None:
        """Count the lookup of a key.

        Raises TooManyRequestsError if the allowance is used up, unless the key was good before or
        its request is `admitted`.
        """
        network, now = network_of(address), self._clock()
        full_at = max(self._full_at.get(network, now), now) + self._interval
        wait = full_at - now - self._burst
        if wait > 0 and not admitted and _hashed(token) not in self._good:
            raise TooManyRequestsError(
                "Too many requests with unknown API keys came from this address; try again later.",
                retry_after=math.ceil(wait),
            )
        _put(self._full_at, network, full_at)

    def failed(self, token: str) -> None:
        """Note that a key is bad: its lookup stays counted."""
        self._good.pop(_hashed(token), None)

    def succeeded(self, address: str, token: str) -> None:
        """Note that a key is good: its lookup doesn't count."""
        self.forgive(address)
        _put(self._good, _hashed(token), None)

    def forgive(self, address: str) -> None:
        """Undo the count of a lookup."""
        network = network_of(address)
        if network in self._full_at:
            self._full_at[network] -= self._interval


_REMEMBERED = 10_000
"""The most recent addresses, and the most recent good keys, that are kept in memory."""


def _put(memory: OrderedDict[K, V], key: K, value: V) -> None:
    memory[key] = value
    memory.move_to_end(key)
    if len(memory) > _REMEMBERED:
        memory.popitem(last=False)


def _hashed(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


_RESOURCES = {
    "api-keys": ("api_key", "key_id"),
    "audit-logs": ("audit_log", None),
    "users": ("user", "user_id"),
}
"""Collections of which administrators see what isn't theirs: the type of their resources, and the
path parameter that names one."""


async def record_read(request: Request, actor: Caller, services: Services) -> None:
    """Record in the audit trail that an administrator reads what isn't theirs."""
    if request.method != "GET" or not actor.administrator:
        return
    route = request.scope["route"]
    segment = request.url.path.removeprefix(links.PREFIX).split("/")[1]
    if segment not in _RESOURCES:
        return
    resource, parameter = _RESOURCES[segment]
    reference = request.path_params.get(parameter) if parameter else None
    resource_id = None if reference is None else parse_uuid(str(reference))
    if reference is not None and resource_id is None:
        return  # a name finds only one's own resources, anything else nothing
    await run_in_threadpool(
        services.access_records.admin_read, actor, resource, resource_id, route.operation_id
    )
