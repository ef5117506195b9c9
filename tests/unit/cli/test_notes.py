"""What lists of executions note: what one waits for, or how it failed."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from celeriac.cli.executions.notes import note
from celeriac.wire import ExecutionSummary

LONG_AGO = datetime.now(UTC) - timedelta(days=2, minutes=1)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"status": "completed"}, ""),
        ({"status": "waiting", "waiting_for": "approval"}, "waits for approval"),
        ({"status": "running", "waiting_for": "approval"}, "waits for approval"),
        ({"status": "waiting", "waiting_for": "provider_limit",
          "waiting_until": "2026-11-22T09:30:00Z"}, "waits for provider limit, until 2026-11-22 "),
        ({"status": "waiting", "waiting_for": "approval", "waiting_since": LONG_AGO},
         "waits for approval, for 2 d "),
        ({"status": "queued", "waiting_since": LONG_AGO}, "waits for a worker, for 2 d "),
        ({"status": "pending", "available_at": "2026-11-22T09:30:00Z"},
         "waits for its time, 2026-11-22 "),
        ({"status": "pending", "held": "time", "available_at": "2026-11-22T09:30:00Z"},
         "waits for its time, 2026-11-22 "),
        ({"status": "pending", "held": "limit", "waiting_since": LONG_AGO},
         "waits for a slot of its limit, for 2 d "),
        ({"status": "pending", "held": "paused", "waiting_since": LONG_AGO},
         "waits for the end of a pause, for 2 d "),
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
