"""The local model: a small language model on the CPU, served by a child process."""

import sys
from dataclasses import dataclass
from pathlib import Path

import httpx

from celeriac.embedded.home import LOOPBACK, Home, reserve_port
from celeriac.embedded.process import ProcessSpec
from celeriac.embedded.weights import require

NAME = "model"
MODEL_NAME = "smollm2"
"""The name of the model for clients."""

_CHECK_SECONDS = 2.0
_STOP_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalModel:
    """An OpenAI-compatible server on a loopback port: chat, streaming, JSON schemas.

    `LocalModel.prepare` makes one; run its `spec()`, and give clients its `base_url`. The port
    stays the same over restarts of the process. `context` is the number of tokens of one request,
    prompt and answer together.
    """

    weights: Path
    workdir: Path
    port: int
    context: int

    @classmethod
    def prepare(
        cls, home: Home, *, models: Path | None = None, context: int = 4096
    ) -> "LocalModel":
        """Find the weights in their package or in `models` (default: `models` in the home).

        Raises ServerNotInstalledError, which names the commands that install what is missing.
        """
        return cls(
            weights=require(models or home.root / "models"),
            workdir=home.root,
            port=reserve_port(),
            context=context,
        )

    @property
    def base_url(self) -> str:
        """The base URL for OpenAI clients; any API key is accepted."""
        return f"{self._address}/v1"

    def spec(self) -> ProcessSpec:
        """Return how to run the server."""
        return ProcessSpec(
            name=NAME,
            argv=(
                sys.executable,
                "-P",  # import nothing from the working directory
                "-m",
                "celeriac.embedded.model_server",
                f"--weights={self.weights}",
                f"--model={MODEL_NAME}",
                f"--port={self.port}",
                f"--context={self.context}",
            ),
            env={"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"},
            cwd=self.workdir,
            ready=self.check_ready,
            stop_grace=_STOP_SECONDS,
        )

    def check_ready(self) -> str | None:
        """Return None if the server reports that the model is loaded, else the reason."""
        try:
            with httpx.Client(trust_env=False, timeout=_CHECK_SECONDS) as client:
                answer = client.get(f"{self._address}/health")
        except httpx.HTTPError as error:
            return str(error)
        return None if answer.is_success else f"it answers {answer.status_code}"

    @property
    def _address(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"
