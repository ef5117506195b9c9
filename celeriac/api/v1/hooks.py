"""Inbound hooks over HTTP: managing them, and `POST /hooks/{token}`, which needs no key."""

from functools import partial
from typing import Annotated, Any
from urllib.parse import parse_qsl
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request
from pydantic import ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from celeriac import wire
from celeriac.api.core import links, views
from celeriac.api.core.auth import Admin
from celeriac.api.core.pages import Paging
from celeriac.api.core.parameters import Reference, Services, Shared
from celeriac.api.core.requests import MAX_BULK_VALUES, REPLAYED, JsonRoute, parse
from celeriac.api.core.responses import json_response, problem_responses
from celeriac.domain.base import Name, Strict
from celeriac.domain.errors import InvalidInputError, TooLargeError
from celeriac.domain.expressions import MAX_CHARACTERS
from celeriac.domain.hooks.model import (
    DEFAULT_PER_MINUTE,
    MAX_PER_MINUTE,
    Hook,
    HookDeliveryStatus,
    Verification,
)
from celeriac.domain.webhooks import DEFAULT_OVERLAP_HOURS, MAX_OVERLAP_HOURS
from celeriac.kit.json_types import JsonValue, dumps
from celeriac.kit.words import counted
from celeriac.services.hooks import manage
from celeriac.services.hooks.manage import ShownSecret
from celeriac.services.hooks.receive import Received
from celeriac.wiring.api import ApiServices
from celeriac.wiring.core import CoreServices

router = APIRouter(prefix="/hooks", tags=["hooks"], route_class=JsonRoute)
open_router = APIRouter(prefix="/hooks", tags=["hooks"])

MAX_HOOK_BYTES = 1_000_000
"""The largest body of a request to a hook."""

_MOST_FIELDS = 1_000
_FORM = "application/x-www-form-urlencoded"
_SENT: Any = {"action": "opened", "issue": {"title": "The parcel is late"}}
_HOOK: dict[str, Any] = {
    "task": "summarise",
    "verification": "github",
    "mapping": {"text": "${{ body.issue.title }}"},
    "when": "body.action == 'opened'",
    "description": "New issues of the shop",
}

HookPath = Annotated[UUID, Path(description="The hook's id, not its token.")]
Description = Annotated[str, Field(max_length=2_000)]
Mapping = Annotated[
    dict[str, Any] | None,
    Field(
        description="The variables of the task, or the input of the workflow. Texts may hold "
        "`${{ }}` with expressions over `body`, `headers` and `query`. Without it the body, which "
        "must be an object, is taken as it is."
    ),
]
When = Annotated[
    str | None,
    Field(
        max_length=MAX_CHARACTERS,
        description="An expression; requests for which it is false are ignored.",
    ),
]
PerMinute = Annotated[
    int, Field(ge=1, le=MAX_PER_MINUTE, description="Requests that each API process takes.")
]
Secret = Annotated[
    str | None,
    Field(
        min_length=16,
        max_length=500,
        description="What the sender signs with, if the sender makes it, as Stripe does.",
    ),
]


class NewHook(Strict):
    """A hook to create, for a task or a workflow."""

    model_config = ConfigDict(json_schema_extra={"examples": [_HOOK]})

    name: Name | None = Field(
        default=None, description="Unique in the workspace; it can't be changed later."
    )
    task: Reference | None = Field(default=None, description="The task's id, or its name.")
    workflow: Reference | None = Field(default=None, description="The workflow's id, or its name.")
    description: Description = ""
    verification: Annotated[Verification, Field(strict=False)] = Field(
        default=Verification.STANDARD,
        description="How requests are verified: `standard`, `github`, `stripe` or `bearer`.",
    )
    secret: Secret = None
    mapping: Mapping = None
    when: When = None
    per_minute: PerMinute = DEFAULT_PER_MINUTE


class HookChange(Strict):
    """What to change of a hook; what is left out stays as it is."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"per_minute": 60}]})

    description: Description = ""
    mapping: Mapping = None
    when: When = None
    per_minute: PerMinute = DEFAULT_PER_MINUTE


class HookRotation(Strict):
    """A new secret for a hook."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"overlap_hours": 24}]})

    secret: Secret = None
    overlap_hours: float = Field(
        default=DEFAULT_OVERLAP_HOURS,
        ge=0,
        le=MAX_OVERLAP_HOURS,
        description="Hours in which the secret until now is valid, too; 0 if it has leaked.",
    )


class HookSample(Strict):
    """A request to send to a hook as its sender would."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"body": _SENT}]})

    body: Any = Field(default_factory=dict, description="The body, any JSON value.")
    headers: dict[str, str] = Field(default_factory=dict, max_length=50)
    query: dict[str, str] = Field(default_factory=dict, max_length=50)


@router.post("", status_code=201, summary="Create a hook", responses=problem_responses(404, 409))
def create_hook(
    request: Request, body: NewHook, actor: Admin, services: Services, shared: Shared
) -> wire.HookWithSecret:
    """Let requests from outside start executions of a task, or runs of a workflow.

    It acts in the workspace with your rights. The `secret` is shown only now.
    """
    made = services.hooks.create(actor, manage.NewHook(**dict(body)))
    return _with_secret(request, shared, services, made)


@router.get("", response_model=wire.Page[wire.Hook], summary="List hooks")
def list_hooks(
    request: Request, actor: Admin, services: Services, shared: Shared, paging: Paging
) -> Response:
    """Return the hooks of the workspace, the newest first."""
    return paging.answer(partial(_view, request, shared, services), services.hooks.find, actor)


@router.get("/{hook_id}", summary="Get a hook")
def get_hook(
    request: Request, hook_id: HookPath, actor: Admin, services: Services, shared: Shared
) -> wire.Hook:
    """Return a hook with its URL, without its secret."""
    return _view(request, shared, services, services.hooks.get(actor, hook_id))


@router.patch("/{hook_id}", summary="Change a hook")
def change_hook(
    request: Request,
    hook_id: HookPath,
    body: HookChange,
    actor: Admin,
    services: Services,
    shared: Shared,
) -> wire.Hook:
    """Change a hook. Its URL and its secret stay the same."""
    values = {name: getattr(body, name) for name in body.model_fields_set}
    changed = services.hooks.change(actor, hook_id, manage.HookChange(values=values))
    return _view(request, shared, services, changed)


@router.delete("/{hook_id}", status_code=204, summary="Delete a hook")
def delete_hook(hook_id: HookPath, actor: Admin, services: Services) -> None:
    """Delete a hook. Its URL is unknown from then on."""
    services.hooks.delete(actor, hook_id)


@router.post("/{hook_id}/pause", summary="Pause a hook")
def pause_hook(
    request: Request, hook_id: HookPath, actor: Admin, services: Services, shared: Shared
) -> wire.Hook:
    """Let a hook refuse what is sent to it until it is resumed."""
    return _view(request, shared, services, services.hooks.pause(actor, hook_id))


@router.post("/{hook_id}/resume", summary="Resume a hook")
def resume_hook(
    request: Request, hook_id: HookPath, actor: Admin, services: Services, shared: Shared
) -> wire.Hook:
    """Let a paused hook take requests again. Those that it has refused must be sent again."""
    return _view(request, shared, services, services.hooks.resume(actor, hook_id))


@router.post("/{hook_id}/rotate", summary="Rotate the secret of a hook")
def rotate_hook(
    request: Request,
    hook_id: HookPath,
    actor: Admin,
    services: Services,
    shared: Shared,
    body: HookRotation | None = None,
) -> wire.HookWithSecret:
    """Give a hook a new secret, which is shown only now.

    The one until now stays valid for `overlap_hours`, an older one does not.
    """
    body = body or HookRotation()
    made = services.hooks.rotate(
        actor, hook_id, secret=body.secret, overlap_hours=body.overlap_hours
    )
    return _with_secret(request, shared, services, made)


@router.post(
    "/{hook_id}/test",
    status_code=202,
    summary="Send a signed sample to a hook",
    responses=problem_responses(409),
)
def send_hook_sample(
    request: Request,
    hook_id: HookPath,
    actor: Admin,
    services: Services,
    body: HookSample | None = None,
) -> wire.HookReceipt:
    """Sign a body with the hook's secret, and take it as if its sender had sent it.

    It really starts an execution or a run. The answer is the one that the sender would get.
    """
    body = body or HookSample()
    raw = dumps(body.body).encode()
    sample = services.hooks.sample(actor, hook_id, raw)
    given = {name.lower(): value for name, value in body.headers.items()}
    received = Received(
        headers={"content-type": "application/json", **given, **sample.headers},
        query=body.query,
        raw=raw,
        read=partial(_read, "application/json", raw, body.query),
        request_id=request.state.request_id,
    )
    receipt = services.receive(sample.called, received)
    return wire.HookReceipt.model_validate(receipt)


@router.get(
    "/{hook_id}/deliveries",
    response_model=wire.Page[wire.HookDelivery],
    summary="List deliveries to a hook",
)
def list_hook_deliveries(
    hook_id: HookPath,
    actor: Admin,
    services: Services,
    paging: Paging,
    status: Annotated[HookDeliveryStatus | None, Query(description="With this status.")] = None,
) -> Response:
    """Return what was sent to a hook, the newest first, with why it was refused.

    All that has started something is kept for `CELERIAC_RETENTION_DELIVERIES_DAYS`; of the others
    the last 50 of each kind.
    """
    return paging.answer(
        views.hook_delivery, services.hooks.deliveries, actor, hook_id, status=status
    )


@open_router.post(
    "/{token}",
    status_code=202,
    operation_id="call_hook",
    response_model=wire.HookReceipt,
    summary="Call a hook",
    responses=problem_responses(400, 401, 403, 404, 408, 409, 413, 421, 422, 429, 503),
    openapi_extra={
        "requestBody": {
            "description": "Whatever the sender sends: JSON, a form, or a text.",
            "content": {"application/json": {"schema": {"examples": [_SENT]}}},
        }
    },
)
async def call_hook(
    request: Request,
    token: Annotated[str, Path(description="The last part of the hook's URL.")],
    services: Services,
) -> Response:
    """Start what a hook starts. Needs no key, but a signature or the secret, as the hook demands.

    A repeated delivery gets the same answer, and starts nothing more. The answer for an unknown
    token, a wrong signature and one that is too old is always `hook_refused`.
    """
    called = await run_in_threadpool(services.receive.find, token)
    address = "" if request.client is None else request.client.host
    services.receive.admit(called.hook, address)
    raw = await _raw(request)
    query = dict(request.query_params)
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    received = Received(
        headers=_headers(request),
        query=query,
        raw=raw,
        read=partial(_read, media, raw, query),
        request_id=request.state.request_id,
        address=address,
    )
    receipt = await run_in_threadpool(services.receive, called, received)
    headers = {REPLAYED: "true"} if receipt.repeated else {}
    return json_response(wire.HookReceipt.model_validate(receipt), status=202, headers=headers)


async def _raw(request: Request) -> bytes:
    """Return the body. Raises TooLargeError, before it is read if its length is declared."""
    declared = request.headers.get("content-length", "0")
    _check_size(int(declared) if declared.isdecimal() else 0)
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        _check_size(size)
        chunks.append(chunk)
    return b"".join(chunks)


def _check_size(size: int) -> None:
    if size > MAX_HOOK_BYTES:
        raise TooLargeError(
            f"The body may have {counted(MAX_HOOK_BYTES, 'byte')}.",
            field="body",
            limit=MAX_HOOK_BYTES,
        )


def _headers(request: Request) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in request.headers.items():
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def _read(media: str, raw: bytes, query: dict[str, str]) -> JsonValue:
    """Return the value of a body: of JSON, of a form, or a text; None for an empty one.

    Raises MalformedJsonError, InvalidInputError or TooLargeError.
    """
    _refuse_nul(*query, *query.values())
    if not raw:
        return None
    if media != _FORM and not media.startswith("text/"):
        return parse(raw, max_values=MAX_BULK_VALUES)
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise InvalidInputError("The body is no UTF-8.", field="body") from error
    if media != _FORM:
        _refuse_nul(text)
        return text
    try:
        form = dict(parse_qsl(text, keep_blank_values=True, max_num_fields=_MOST_FIELDS))
    except ValueError as error:
        raise InvalidInputError(
            f"The form has more than {_MOST_FIELDS:,} fields.", field="body"
        ) from error
    _refuse_nul(*form, *form.values())
    return form


def _refuse_nul(*texts: str) -> None:
    if any("\0" in text for text in texts):
        raise InvalidInputError("The NUL character can't be stored; remove it.", field="body")


def _view(request: Request, shared: CoreServices, services: ApiServices, found: Hook) -> wire.Hook:
    return views.hook(found, _url(request, shared, services, found))


def _with_secret(
    request: Request, shared: CoreServices, services: ApiServices, made: ShownSecret
) -> wire.HookWithSecret:
    url = _url(request, shared, services, made.hook)
    return views.hook_with_secret(made, url)


def _url(request: Request, shared: CoreServices, services: ApiServices, found: Hook) -> str:
    base = shared.settings.public_url or links.listening(request.scope.get("server"))
    return f"{base}{links.hook(services.hooks.token(found.id))}"
