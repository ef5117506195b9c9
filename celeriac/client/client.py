"""The client of the HTTP API."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar
from uuid import UUID

import httpx

from celeriac import wire
from celeriac.client.accounts import Audit, Keys, Users, Workspaces
from celeriac.client.approvals import Approvals
from celeriac.client.budgets import Budgets, Usage
from celeriac.client.bulk_jobs import BulkJobs
from celeriac.client.cassettes import Cassettes
from celeriac.client.catalog import Agents, Tasks
from celeriac.client.celery_tasks import CeleryTasks
from celeriac.client.documents import Document
from celeriac.client.errors import ClientError
from celeriac.client.executions import Executions
from celeriac.client.failures import Failures
from celeriac.client.hooks import Hooks
from celeriac.client.limits import Limits
from celeriac.client.pauses import Pauses
from celeriac.client.saved_views import SavedViews
from celeriac.client.schedules import Schedules
from celeriac.client.secrets import Secrets
from celeriac.client.server import find_server
from celeriac.client.sessions import Sessions
from celeriac.client.statistics import Statistics
from celeriac.client.transport import API, Transport, path
from celeriac.client.webhooks import Deliveries, Webhooks
from celeriac.client.workflows import WorkflowRuns, Workflows
from celeriac.version import __version__

_CONNECT_SECONDS = 5.0
_UNAVAILABLE = 503
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})

H = TypeVar("H", wire.ReadyHealth, wire.CeleryHealth)


class Client:
    """Talks to one API with one key."""

    def __init__(
        self,
        base_url: str,
        api_key: str | None,
        *,
        workspace: str | None = None,
        timeout: float = 30.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Create a client; nothing is sent yet. Only accepting an invitation needs no `api_key`.

        `workspace` is the name or id of one of the user's workspaces, for a key of their personal
        one; the default is the workspace of the key. `timeout` is the time limit for the answer to
        one request, in seconds; it does not limit waiting for executions. `transport` replaces the
        network, for proxies and tests.
        """
        self._http = httpx.Client(
            base_url=base_url,
            headers=httpx.Headers(
                {
                    **({"Authorization": f"Bearer {api_key}"} if api_key else {}),
                    "User-Agent": f"celeriac-python/{__version__}",
                    **({"Celeriac-Workspace": workspace} if workspace else {}),
                },
                encoding="utf-8",
            ),
            timeout=httpx.Timeout(timeout, connect=_CONNECT_SECONDS),
            transport=transport,
            # proxies of the environment are not for this machine
            trust_env=httpx.URL(base_url).host not in _LOOPBACK,
        )
        self._transport = Transport(self._http)
        self.agents = Agents(self._transport)
        self.tasks = Tasks(self._transport)
        self.workflows = Workflows(self._transport)
        self.workflow_runs = WorkflowRuns(self._transport)
        self.executions = Executions(self._transport)
        self.schedules = Schedules(self._transport)
        self.limits = Limits(self._transport)
        self.pauses = Pauses(self._transport)
        self.sessions = Sessions(self._transport)
        self.cassettes = Cassettes(self._transport)
        self.approvals = Approvals(self._transport)
        self.budgets = Budgets(self._transport)
        self.usage = Usage(self._transport)
        self.bulk_jobs = BulkJobs(self._transport)
        self.views = SavedViews(self._transport)
        self.secrets = Secrets(self._transport)
        self.failures = Failures(self._transport)
        self.statistics = Statistics(self._transport)
        self.webhooks = Webhooks(self._transport)
        self.deliveries = Deliveries(self._transport)
        self.hooks = Hooks(self._transport)
        self.celery_tasks = CeleryTasks(self._transport)
        self.keys = Keys(self._transport)
        self.users = Users(self._transport)
        self.workspaces = Workspaces(self._transport)
        self.audit = Audit(self._transport)

    @classmethod
    def from_env(
        cls, *, workspace: str | None = None, timeout: float = 30.0, home: Path | None = None
    ) -> Self:
        """Return a client for CELERIAC_API_URL and CELERIAC_API_KEY, else for the home's server.

        If they are not set, the client uses the stack that runs in `home`, in CELERIAC_HOME or in
        `.celeriac` in the current directory, with its own key. The workspace is `workspace` or
        CELERIAC_WORKSPACE. Raises ClientError: `no_server` or `no_api_key`.
        """
        server = find_server(home)
        workspace = workspace or os.environ.get("CELERIAC_WORKSPACE")
        return cls(server.url, server.api_key, workspace=workspace, timeout=timeout)

    def apply(
        self, document: Document | Path | Mapping[str, Any], *, dry_run: bool = False
    ) -> wire.Applied:
        """Create what is missing and change what differs, all or none. Nothing is deleted.

        `document` is a mapping with the lists `agents`, `tasks`, `budgets`, `workflows`, `limits`,
        `schedules` and `hooks`, whose entries are the bodies that create them and the documents of
        workflows, or a YAML or JSON file of it. The secret of a hook comes from the environment
        variable that its `secret_env` names. With `dry_run` nothing is written. Raises
        ClientError: `fields` has all faults, and the message has their lines in the file.
        """
        if isinstance(document, Path):
            document = Document.read(document)
        elif isinstance(document, Mapping):
            document = Document(document)
        try:
            response = self._transport.send(
                "POST",
                f"{API}/apply",
                body=document.with_secrets(os.environ).content,
                params={"dry_run": "true" if dry_run else None},
            )
        except ClientError as error:
            raise document.located(error) from error
        return wire.Applied.model_validate_json(response.content)

    @property
    def base_url(self) -> str:
        """The API's address."""
        return str(self._http.base_url)

    def health(self) -> wire.ReadyHealth:
        """Return the API's readiness; raises ClientError if it doesn't answer."""
        return self._health(wire.ReadyHealth, "/health/ready")

    def celery_health(self) -> wire.CeleryHealth:
        """Return the live workers; raises ClientError if the API doesn't answer."""
        return self._health(wire.CeleryHealth, "/health/celery")

    def maintenance_jobs(self) -> Sequence[wire.MaintenanceJob]:
        """Return the latest run of each job of beat, by name. Needs an administrator."""
        return self._transport.get(wire.MaintenanceJobs, path("maintenance-jobs")).jobs

    def doctor(self, *, providers: bool = False) -> wire.Doctor:
        """Check the servers and the work: findings with their cures. Needs an administrator.

        With `providers` also whether the providers of models answer, without a key.
        A server that hangs is a failed finding within eight seconds. Raises ClientError
        `database_unavailable` if the key can't be checked.
        """
        params = {"providers": True} if providers else None
        return self._transport.get(wire.Doctor, path("doctor"), params)

    def sitrep(
        self,
        *,
        scope: str = "workspace",
        limit: int = 10,
        cursor: str | UUID | None = None,
        type: str | None = None,  # noqa: A002 - the parameter's name
        status: str | None = None,
    ) -> wire.Sitrep:
        """Return the situation report: problems with their cures, figures, what waits and runs.

        `scope` is `workspace`, or `instance` for administrators. `limit`, `cursor`, `type`
        (`execution`, `celery`) and `status` choose the recent tasks. Without PostgreSQL the report
        says so. Raises ClientError if the API doesn't answer.
        """
        params = {
            "scope": scope, "limit": limit, "cursor": cursor, "type": type, "status": status,
        }  # fmt: skip
        response = self._transport.send(
            "GET", f"{API}/scheduler/sitrep", params=params, accept={_UNAVAILABLE}
        )
        if response.status_code == _UNAVAILABLE:
            known = response.json().get("details", {}).get("sitrep")
            if known is None:
                raise ClientError.of(response)
            return wire.Sitrep.model_validate(known)
        return wire.Sitrep.model_validate_json(response.content)

    def _health(self, model: type[H], path: str) -> H:
        # 503 is an answer here, not a failure
        response = self._transport.send("GET", path, accept={_UNAVAILABLE})
        return model.model_validate_json(response.content)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
