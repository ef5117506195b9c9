"""The API server of the Kubernetes cluster that a program runs in: deletion costs of pods."""

import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx2

from celeriac.domain.errors import ConfigurationError, UnavailableError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where Kubernetes puts the token, the namespace and the authority of a pod's service account."""

_COST = "controller.kubernetes.io/pod-deletion-cost"
_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
"""Only the metadata of pods, a small part of each."""

_PAGE = 500
_SECONDS = 10.0
_REFUSED = (401, 403)
_GONE = 404


class Cluster:
    """Asks an API server as a service account. Belongs to one thread."""

    def __init__(self, address: str, *, token: str, namespace: str, authority: Path) -> None:
        """`authority` is the file with the certificates that the server must show one of."""
        self._pods = f"/api/v1/namespaces/{namespace}/pods"
        self._client = httpx2.Client(
            base_url=address,
            headers={"Authorization": f"Bearer {token}"},
            verify=ssl.create_default_context(cafile=str(authority)),
            timeout=_SECONDS,
            trust_env=False,
        )

    @classmethod
    def of_pod(cls, environment: Mapping[str, str], directory: Path | None = None) -> "Cluster":
        """Return the cluster of the pod that this program runs in. Raises ConfigurationError."""
        directory = directory or SERVICE_ACCOUNT
        host, port = (
            environment.get(f"KUBERNETES_SERVICE_{name}", "") for name in ("HOST", "PORT")
        )
        try:
            token = (directory / "token").read_text().strip()
            namespace = (directory / "namespace").read_text().strip()
        except OSError as error:
            raise ConfigurationError(
                f"The service account is not in {directory}: run this in a pod whose service "
                "account is mounted (automountServiceAccountToken), as deploy/kubernetes/keda does."
            ) from error
        if not (host and port):
            raise ConfigurationError(
                "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set: run this in a "
                "pod."
            )
        host = f"[{host}]" if ":" in host else host
        address = f"https://{host}:{port}"
        return cls(address, token=token, namespace=namespace, authority=directory / "ca.crt")

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def costs(self, selector: str) -> Iterator[tuple[str, str | None]]:
        """Yield the name and the deletion cost of each pod with these labels; None without a cost.

        Raises UnavailableError, ConfigurationError if it is refused.
        """
        params = {"labelSelector": selector, "limit": str(_PAGE)}
        while True:
            answer = self._sent("GET", self._pods, params=params, headers={"Accept": _LIST})
            page = answer.json()
            for pod in page["items"]:
                metadata = pod["metadata"]
                yield metadata["name"], (metadata.get("annotations") or {}).get(_COST)
            following = (page.get("metadata") or {}).get("continue")
            if not following:
                return
            params["continue"] = following

    def set_cost(self, pod: str, cost: int) -> bool:
        """Set the deletion cost of a pod; return whether it is still there.

        Raises UnavailableError, ConfigurationError if it is refused.
        """
        answer = self._sent(
            "PATCH",
            f"{self._pods}/{pod}",
            json={"metadata": {"annotations": {_COST: str(cost)}}},
            headers={"Content-Type": "application/merge-patch+json"},
        )
        return answer.status_code != _GONE

    def _sent(self, method: str, path: str, **options: Any) -> httpx2.Response:
        try:
            answer = self._client.request(method, path, **options)
        except httpx2.HTTPError as error:
            address = self._client.base_url
            message = f"The API server at {address} does not answer: {error}"
            raise UnavailableError(message) from error
        if answer.status_code in _REFUSED:
            raise ConfigurationError(
                f"The API server refuses {method} {path}: the service account needs a Role with "
                "the verbs list and patch of pods."
            )
        if not (answer.is_success or (answer.status_code == _GONE and method == "PATCH")):
            raise UnavailableError(f"The API server answers {method} {path} {answer.status_code}.")
        return answer
