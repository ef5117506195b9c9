"""What deploy/kubernetes does about the number of workers, on the real schema.

KEDA's query: what it counts, and what it costs. The deletion costs of pods, at an API server that
keeps pods in memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from fastapi import FastAPI, HTTPException, Request
from sqlalchemy import text

from celeriac import logs
from celeriac.adapters import kubernetes
from celeriac.adapters.kubernetes import Cluster
from celeriac.cli.main import main
from celeriac.db import workers
from celeriac.domain.accounts import Role
from celeriac.domain.errors import ConfigurationError, UnavailableError
from celeriac.domain.executions.model import SubmitRequest
from celeriac.domain.executions.pauses import PauseScope, PauseTarget
from celeriac.domain.operations import WorkerReport
from celeriac.domain.tasks import TaskSpec
from celeriac.kit.ids import uuid7
from celeriac.services.executions.pauses import Pauses
from celeriac.services.operations.pod_costs import update_costs
from celeriac.wiring.core import CoreServices
from tests.support import deployment
from tests.support.catalog import make_actor, make_task
from tests.support.http_server import serving

pytestmark = pytest.mark.requirement("B14")

[_SCALER] = [
    each
    for each in deployment.documents(deployment.DEPLOY / "kubernetes/keda/worker-scaler.yaml")
    if each["kind"] == "ScaledObject"
]
[_QUERY] = [each["metadata"]["query"] for each in _SCALER["spec"]["triggers"]]


def _count(container: CoreServices) -> int:
    with container.database.autocommit() as connection:
        return int(connection.execute(text(_QUERY)).scalar_one())


def test_it_counts_what_a_worker_could_run(container: CoreServices) -> None:
    actor = make_actor(container.database)
    task = make_task(container.database, actor)
    elsewhere = make_task(container.database, actor, spec=TaskSpec(queue="reports"))
    assert _count(container) == 0
    container.submit(actor, SubmitRequest(task_id=task))  # its message is sent at once
    container.submit.batch(actor, SubmitRequest(task_id=task), [{}, {}])  # due, not sent yet
    container.submit(actor, SubmitRequest(task_id=task, delay_seconds=600))  # not due
    container.submit(actor, SubmitRequest(task_id=elsewhere))
    assert _count(container) == 3
    Pauses(container.database, container.dispatch).pause(
        make_actor(container.database, Role.ADMIN),
        PauseTarget(PauseScope.QUEUE, "task_execution"),
        "A supplier is down.",
    )
    assert _count(container) == 1  # what is due would only wait in more workers


def test_its_parts_are_bounded_and_on_indexes(container: CoreServices) -> None:
    with container.database.autocommit() as connection:
        plan = "\n".join(connection.execute(text(f"EXPLAIN {_QUERY}")).scalars())
    assert plan.count("Limit") == 3
    assert "Seq Scan on executions" not in plan


_COST = "controller.kubernetes.io/pod-deletion-cost"


@dataclass(slots=True)
class _ApiServer:
    """Pods of the namespace `shop` with their annotations; lists one of them a page."""

    account: Path
    address: str = ""
    pods: dict[str, dict[str, str]] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    patched: list[str] = field(default_factory=list)
    refuses: bool = False

    def app(self) -> FastAPI:
        made = FastAPI()

        @made.get("/api/v1/namespaces/shop/pods")
        def pods(request: Request) -> dict[str, object]:
            self.check(request)
            assert request.query_params["labelSelector"] == "app=celeriac-worker"
            names, place = sorted(self.pods), int(request.query_params.get("continue", "0"))
            metadata = {"continue": f"{place + 1}"} if place + 1 < len(names) else {}
            name = names[place]
            item = {"metadata": {"name": name, "annotations": self.pods[name] or None}}
            return {"metadata": metadata, "items": [item]}

        @made.patch("/api/v1/namespaces/shop/pods/{name}")
        async def patch(request: Request, name: str) -> dict[str, object]:
            self.check(request)
            assert request.headers["content-type"] == "application/merge-patch+json"
            if name in self.gone:
                raise HTTPException(404)
            self.pods[name] |= (await request.json())["metadata"]["annotations"]
            self.patched.append(name)
            return {}

        return made

    def check(self, request: Request) -> None:
        if self.refuses or request.headers["authorization"] != "Bearer a-token":
            raise HTTPException(403)

    def cluster(self) -> Cluster:
        return Cluster.of_pod(self.environment(), self.account)

    def environment(self) -> dict[str, str]:
        port = str(urlsplit(self.address).port)
        return {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": port}


def _certificate(directory: Path) -> None:
    """Write a certificate of 127.0.0.1, and its key."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes")])
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (directory / "ca.crt").write_bytes(made.public_bytes(Encoding.PEM))
    form = PrivateFormat.TraditionalOpenSSL
    (directory / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, form, NoEncryption()))


@pytest.fixture
def api_server(tmp_path: Path) -> Iterator[_ApiServer]:
    """An API server over TLS, and the directory of a service account."""
    _certificate(tmp_path)
    (tmp_path / "token").write_text("a-token\n")
    (tmp_path / "namespace").write_text("shop")
    server = _ApiServer(tmp_path)
    files = tmp_path / "ca.crt", tmp_path / "key.pem"
    with serving(server.app(), ssl_certfile=files[0], ssl_keyfile=files[1]) as address:
        server.address = address
        yield server


def test_the_pod_with_the_least_work_goes_first(
    container: CoreServices, api_server: _ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle = WorkerReport(
        id=uuid7(), hostname="worker@idle", pid=1, pool="threads", slots=4, running=0,
        cpu_percent=1.5, memory_bytes=10**8, version="1", queues=("default",), consuming=True,
    )  # fmt: skip
    with container.database.transaction() as connection:
        workers.report(connection, idle)
        for pid in (1, 2):  # children of prefork
            busy = replace(idle, id=uuid7(), hostname="worker@busy", pid=pid, running=2)
            workers.report(connection, replace(busy, plain_running=1))
    api_server.pods = {"busy": {}, "idle": {_COST: "3"}, "new": {}, "leaving": {_COST: "7"}}
    api_server.gone = {"leaving"}
    monkeypatch.setenv("CELERIAC_WORKER_HEARTBEAT_SECONDS", "300")  # however slow the machine is
    monkeypatch.setenv("CELERIAC_WORKER_LEASE_SECONDS", "600")
    monkeypatch.setattr(kubernetes, "SERVICE_ACCOUNT", api_server.account)
    for name, value in api_server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DATABASE_URL", container.settings.require_database())
    assert main(["pod-costs"]) == 0
    assert api_server.pods["busy"] == {_COST: "6"}
    assert api_server.pods["idle"] == {_COST: "0"}
    assert sorted(api_server.patched) == ["busy", "idle"], "the others are as they should be"
    assert main(["pod-costs"]) == 0
    assert len(api_server.patched) == 2, "nothing has changed since"
    logs.shutdown()  # which the command has set up

    api_server.refuses = True
    cluster = api_server.cluster()
    with pytest.raises(ConfigurationError, match="the verbs list and patch of pods"):
        update_costs(container.database, cluster, selector="app=celeriac-worker", within_seconds=60)
    cluster.close()


def test_a_cluster_that_is_not_there_is_explained(tmp_path: Path, api_server: _ApiServer) -> None:
    with pytest.raises(ConfigurationError, match="automountServiceAccountToken"):
        Cluster.of_pod({}, tmp_path / "none")
    with pytest.raises(ConfigurationError, match="KUBERNETES_SERVICE_HOST"):
        Cluster.of_pod({}, tmp_path)
    (tmp_path / "other").mkdir()
    _certificate(tmp_path / "other")  # of another authority
    (tmp_path / "ca.crt").write_bytes((tmp_path / "other" / "ca.crt").read_bytes())
    with pytest.raises(UnavailableError, match="does not answer"):
        list(api_server.cluster().costs("app=celeriac-worker"))
