"""Reports: what people or models wrote stays plain text, whatever it is."""

from dataclasses import fields
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from celeriac.domain.events import Event, EventType
from celeriac.domain.execution import Execution, TriggerType
from celeriac.domain.report import markdown
from celeriac.domain.states import Status

_AT = datetime(2026, 11, 22, 3, 4, 5, 678900, UTC)
_ID = UUID(int=7)


def _execution(**values: Any) -> Execution:
    known: dict[str, Any] = {
        "id": _ID, "task_name": "summarise", "status": Status.COMPLETED,
        "trigger_type": TriggerType.MANUAL, "priority": 1, "variables": {}, "created_at": _AT,
        "started_at": _AT, "completed_at": _AT, "duration_seconds": 1.25, "cost": Decimal("0.002"),
    }  # fmt: skip
    counts = {"attempt", "message_count", "tool_call_count", "model_call_count", "input_tokens",
              "output_tokens"}  # fmt: skip
    blank = {field.name: 0 if field.name in counts else None for field in fields(Execution)}
    return Execution(**{**blank, **known, **values})


def _event(kind: EventType, data: dict[str, Any]) -> Event:
    return Event(_ID, 1, kind, _AT, 1, data)


def test_a_report_tells_what_was_done() -> None:
    execution = _execution(variables={"text": "a"}, result={"summary": "b"}, input_tokens=12)
    events = [
        _event(EventType.MESSAGE, {"role": "user", "content": "Summarise: a"}),
        _event(EventType.COMPLETED, {}),
    ]
    text = markdown(execution, events)
    assert text.startswith("# summarise: completed\n\n- **Execution**: ")
    assert "- **Duration**: 1\\.2 s\n" in text
    assert "- **Tokens**: 12 in, 0 out\n" in text
    assert '## Variables\n\n```json\n{\n  "text": "a"\n}\n```' in text
    assert '## Result\n\n```json\n{\n  "summary": "b"\n}\n```' in text
    assert "## Conversation\n\n### user\n\n```\nSummarise: a\n```" in text
    assert "1. 03:04:05.678900 **completed**" in text
    assert "## Error" not in text


def test_a_failure_is_told_with_its_traceback() -> None:
    text = markdown(
        _execution(
            status=Status.FAILED, error_code="agent_failed", error_message="no <luck>",
            error_details={"traceback": "Traceback:\n  x"},
        ),
        [],
    )  # fmt: skip
    assert "## Error\n\n**agent\\_failed**: no \\<luck\\>\n\n```\nTraceback:\n  x\n```" in text


_HOSTILE = st.text(alphabet="<>`#*_[]()!&\n ~-+.1|:x", max_size=60)


@given(_HOSTILE, _HOSTILE)
def test_nothing_that_others_wrote_becomes_markup(name: str, content: str) -> None:
    events = [_event(EventType.MESSAGE, {"role": name, "content": content})]
    execution = _execution(variables={"text": content}, result=content, error_message=name or "x")
    tokens = MarkdownIt("commonmark").parse(markdown(execution, events))
    kinds = {token.type for token in tokens}
    inner = {child.type for token in tokens for child in token.children or ()}
    assert kinds <= {
        "heading_open", "heading_close", "inline", "bullet_list_open", "bullet_list_close",
        "list_item_open", "list_item_close", "paragraph_open", "paragraph_close", "fence",
        "ordered_list_open", "ordered_list_close",
    }  # fmt: skip
    assert inner <= {"text", "strong_open", "strong_close", "softbreak", "text_special"}
    headings = [token for token in tokens if token.type == "heading_open"]
    assert len(headings) == 7, "only those of the report itself"
