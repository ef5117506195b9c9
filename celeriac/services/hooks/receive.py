"""What happens when a hook is called: verified, matched with earlier deliveries, and started."""

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from uuid import UUID

import structlog

from celeriac.db.engine import Database
from celeriac.db.hooks import deliveries, hooks
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.errors import (
    CeleriacError,
    HookForbiddenError,
    HookPausedError,
    HookRefusedError,
    InvalidInputError,
    TooManyRequestsError,
    UnavailableError,
)
from celeriac.domain.executions.deliveries import DeliveryKeys, NewHookDelivery
from celeriac.domain.executions.model import SubmitRequest
from celeriac.domain.executions.triggers import TriggerType
from celeriac.domain.expressions import Work
from celeriac.domain.hooks.mapping import scope_of, variables_of, wanted
from celeriac.domain.hooks.model import (
    CalledHook,
    Hook,
    HookDeliveryStatus,
)
from celeriac.domain.hooks.secrets import HookKeys
from celeriac.domain.hooks.signatures import (
    MAX_NAME,
    PRIVATE_HEADERS,
    SignatureError,
    keys_of,
    verify,
)
from celeriac.kit.json_types import JsonObject, JsonValue, storable_text
from celeriac.kit.outbound import network_of
from celeriac.kit.text import clip
from celeriac.services.executions.submit import Submit
from celeriac.services.hooks.rates import Rates, remember
from celeriac.services.workflows.runs import Runs, StartRequest

logger = structlog.get_logger(__name__)

_BAD_PER_MINUTE = 60
"""Requests to a hook with a wrong signature that are checked, from one address."""

_NOTED_PER_MINUTE = 60
"""Those that are noted in its deliveries, from all addresses."""

_LONGEST_MESSAGE = 1_000


@dataclass(frozen=True, slots=True)
class Received:
    """A request to a hook."""

    headers: Mapping[str, str]
    """By their names in small letters."""
    query: Mapping[str, str]
    raw: bytes
    """The body as it came."""
    read: Callable[[], JsonValue]
    """Returns the value of the body. Raises InvalidInputError."""
    request_id: str | None = None
    address: str | None = None
    """Whence it came; None if it came from here."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a genuine request has started: an execution or a run, or nothing if it was ignored."""

    status: HookDeliveryStatus
    execution_id: UUID | None = None
    run_id: UUID | None = None
    repeated: bool = False
    """Whether an earlier delivery has started it."""


def unknown() -> HookRefusedError:
    """Return the answer to all who can't show that they are the sender of a hook."""
    return HookRefusedError(
        "There is no such hook, or the request is not signed as it demands. Its deliveries say why."
    )


class Receive:
    """Takes requests to hooks. Safe to share between threads."""

    def __init__(
        self,
        database: Database,
        keys: HookKeys,
        submit: Submit,
        runs: Runs,
        rates: Rates | None = None,
    ) -> None:
        self._database = database
        self._keys = keys
        self._submit = submit
        self._runs = runs
        self._rates = rates or Rates()
        self._lock = threading.Lock()
        self._genuine: OrderedDict[Hashable, None] = OrderedDict()

    def find(self, token: str) -> CalledHook:
        """Return the hook of a token. Raises HookRefusedError.

        Reads nothing for tokens that this installation has not made.
        """
        hook_id = self._keys.hook_id(token)
        found = None if hook_id is None else self.hook(hook_id)
        if found is None:
            raise unknown()
        return found

    def hook(self, hook_id: UUID) -> CalledHook | None:
        """Return a hook to call, whatever its workspace, or None."""
        with self._database.autocommit() as connection:
            return hooks.called(connection, hook_id)

    def admit(self, hook: Hook, address: str) -> None:
        """Raise TooManyRequestsError if too many wrong requests came to a hook from an address.

        Where a genuine one came from before is let through, so that strangers behind the same proxy
        lock the sender out of nothing.
        """
        key = (hook.id, network_of(address))
        if key not in self._genuine:
            _refuse_many(self._rates.wait(("wrong", *key), per_minute=_BAD_PER_MINUTE))

    def __call__(self, called: CalledHook, received: Received) -> Receipt:
        """Verify a request, and start what it asks for; once for each delivery.

        Raises HookRefusedError if it is not genuine, TooManyRequestsError, HookPausedError,
        HookForbiddenError if its maker may not start it, and what reading the body,
        mapping it and submitting raise. The reason is stored with the hook's deliveries.
        """
        hook = called.hook
        try:
            secrets = [self._keys.secret(hook.id, each) for each in called.secrets]
            verify(hook.verification, secrets, received.headers, received.raw, now=called.now)
        except SignatureError as error:
            self._note_stranger(hook, received, error)
            raise unknown() from error
        if received.address is not None:
            with self._lock:
                remember(self._genuine, (hook.id, network_of(received.address)), None)
        wait = self._rates.take(("calls", hook.id), per_minute=hook.per_minute)
        body: JsonValue = None
        try:
            _refuse_many(wait)
            body = received.read()
            return self._start(called, received, body)
        except UnavailableError:
            raise  # the sender sends it again
        except CeleriacError as error:
            self._note_refused(hook, received, error, body)
            raise

    def _start(self, called: CalledHook, received: Received, body: JsonValue) -> Receipt:
        hook = called.hook
        keys = keys_of(hook.verification, received.headers, received.raw, body)
        if keys.name is not None and len(keys.name) > MAX_NAME:
            raise InvalidInputError(f"The id of the delivery is over {MAX_NAME} characters.")
        with self._database.autocommit() as connection:
            earlier = deliveries.started(connection, hook.id, keys)
        if earlier is not None:
            return _receipt(hook, earlier, repeated=True)
        actor = _maker(called, received.request_id)
        if not hook.active:
            raise HookPausedError("The hook is paused; send this again when it is enabled.")
        headers = {
            name: value for name, value in received.headers.items() if name not in PRIVATE_HEADERS
        }
        work, scope = Work(), scope_of(body, headers, received.query)
        if not wanted(hook.when, scope, work):
            self._note(hook, received, HookDeliveryStatus.IGNORED, keys=keys)
            return Receipt(HookDeliveryStatus.IGNORED)
        variables = variables_of(hook.mapping, scope, work)
        new = NewHookDelivery(hook.id, hook.workspace_id, keys, len(received.raw))
        return self._submitted(hook, actor, variables, new)

    def _submitted(
        self, hook: Hook, actor: Actor, variables: JsonObject, new: NewHookDelivery
    ) -> Receipt:
        if hook.workflow_id is not None:
            start = StartRequest(
                hook.workflow_id, variables, trigger_type=TriggerType.WEBHOOK, delivery=new
            )
            run = self._runs.start(actor, start)
            receipt = _receipt(hook, run.run_id, repeated=not run.created)
        else:
            assert hook.task_id is not None
            request = SubmitRequest(
                task_id=hook.task_id,
                variables=variables,
                trigger_type=TriggerType.WEBHOOK,
                delivery=new,
            )
            made = self._submit(actor, request)
            receipt = _receipt(hook, made.execution_id, repeated=not made.created)
        logger.info("hook.accepted", hook_id=hook.id, repeated=receipt.repeated)
        return receipt

    def _note_stranger(self, hook: Hook, received: Received, error: SignatureError) -> None:
        """Store why a request was not verified; not each one if there are very many."""
        logger.info("hook.refused", hook_id=hook.id, reason=error.reason.value)
        if received.address is not None:
            key = ("wrong", hook.id, network_of(received.address))
            self._rates.take(key, per_minute=_BAD_PER_MINUTE)
        if not self._rates.take(("noted", hook.id), per_minute=_NOTED_PER_MINUTE):
            self._note(
                hook,
                received,
                HookDeliveryStatus.REFUSED,
                reason=error.reason.value,
                message=error.message,
                verified=False,
            )

    def _note_refused(
        self, hook: Hook, received: Received, error: CeleriacError, body: JsonValue
    ) -> None:
        logger.info("hook.refused", hook_id=hook.id, reason=error.code)
        if isinstance(error, TooManyRequestsError) and self._rates.take(
            ("many", hook.id), per_minute=1
        ):
            return  # one for each minute, so that it pushes out no other reason
        said = error.why if isinstance(error, HookForbiddenError) else error.message
        message = clip(said, _LONGEST_MESSAGE)
        status = HookDeliveryStatus.REFUSED
        keys = keys_of(hook.verification, received.headers, received.raw, body)
        self._note(hook, received, status, reason=error.code, message=message, keys=keys)

    def _note(
        self,
        hook: Hook,
        received: Received,
        status: HookDeliveryStatus,
        *,
        reason: str | None = None,
        message: str | None = None,
        verified: bool = True,
        keys: DeliveryKeys | None = None,
    ) -> None:
        names = keys or keys_of(hook.verification, received.headers, received.raw, None)
        with self._database.autocommit() as connection:
            deliveries.note(
                connection,
                hook.id,
                workspace_id=hook.workspace_id,
                status=status,
                verified=verified,
                reason=reason,
                message=None if message is None else storable_text(message),
                delivery_id=None if names.name is None else storable_text(names.name[:MAX_NAME]),
                size=len(received.raw),
            )


def _maker(called: CalledHook, request_id: str | None) -> Actor:
    """Return on whose behalf a hook acts. Raises HookForbiddenError if they may start nothing."""
    hook, role = called.hook, called.owner_role
    if called.owner_name is None or called.owner_disabled:
        raise HookForbiddenError("Its maker is disabled; let somebody else make it again.")
    if role is None:
        raise HookForbiddenError("Its maker is no member of the workspace any more.")
    if not role.includes(Role.OPERATOR):
        raise HookForbiddenError(f"Its maker has the role {role}, which may start nothing.")
    actor = Actor(hook.owner_id, called.owner_name, role, hook.workspace_id)
    return replace(actor, request_id=request_id)


def _receipt(hook: Hook, started: UUID, *, repeated: bool) -> Receipt:
    if hook.workflow_id is not None:
        return Receipt(HookDeliveryStatus.ACCEPTED, run_id=started, repeated=repeated)
    return Receipt(HookDeliveryStatus.ACCEPTED, execution_id=started, repeated=repeated)


def _refuse_many(wait: float) -> None:
    if wait:
        raise TooManyRequestsError(
            "Too many requests to this hook; try again later.", retry_after=math.ceil(wait)
        )
