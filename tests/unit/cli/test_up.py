"""What `celeriac up` proposes to try."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from celeriac.cli.up import next_steps


@pytest.mark.parametrize(
    ("url", "has_openai", "proposed"),
    [
        ("http://127.0.0.1:1/v1", False, "--model local/smollm2"),
        (None, True, "--model openai/gpt-5-mini"),
        (None, False, "--function hello:double"),
    ],
)
def test_only_what_works_is_proposed(url: str | None, has_openai: bool, proposed: str) -> None:
    system: Any = SimpleNamespace(
        home=SimpleNamespace(root=Path("/somewhere")),
        endpoints=SimpleNamespace(model_base_url=url),
        has_openai=has_openai,
    )
    steps = "\n".join(next_steps(system))
    assert proposed in steps
    assert ("local/smollm2" in steps) is (url is not None)
