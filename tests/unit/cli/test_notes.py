"""What lists of executions note: what one waits for, or how it failed."""

from typing import Any

import pytest

from celeriac.cli.executions import note
from celeriac.wire import ExecutionSummary


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"status": "completed"}, ""),
        ({"status": "waiting", "waiting_for": "approval"}, "waits for approval"),
        ({"status": "running", "waiting_for": "approval"}, "waits for approval"),
        ({"status": "waiting", "waiting_for": "provider_limit",
          "waiting_until": "2026-11-22T09:30:00Z"}, "waits for provider limit, until 2026-11-22 "),
        ({"status": "failed", "error_code": "agent_failed", "error_message": "'customer'",
          "error_type": "KeyError"}, "agent_failed: KeyError: 'customer'"),
    ],
)  # fmt: skip
def test_a_list_notes_what_is_waited_for_and_how_it_failed(
    values: dict[str, Any], words: str
) -> None:
    found = note(ExecutionSummary.model_validate({**ExecutionSummary.example(), **values}))
    assert found.startswith(words)
    assert bool(found) is bool(words)
