"""Reports: what people or models wrote stays plain text, whatever it is."""

from dataclasses import fields
from datetime import UTC, datetime
from decimal import Decimal
from html.parser import HTMLParser
from typing import Any
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from celeriac.domain.approvals import Approval, ApprovalStatus, OnExpiry, QuestionKind
from celeriac.domain.executions.events import Event, EventType
from celeriac.domain.executions.model import Execution
from celeriac.domain.executions.options import NO_OPTIONS
from celeriac.domain.executions.states import Status
from celeriac.domain.executions.triggers import TriggerType
from celeriac.domain.reports import html, markdown

_AT = datetime(2026, 11, 22, 3, 4, 5, 678900, UTC)
_ID = UUID(int=7)


def _execution(**values: Any) -> Execution:
    known: dict[str, Any] = {
        "id": _ID, "task_name": "summarise", "status": Status.COMPLETED,
        "trigger_type": TriggerType.MANUAL, "priority": 1, "variables": {}, "created_at": _AT,
        "started_at": _AT, "completed_at": _AT, "duration_seconds": 1.25, "cost": Decimal("0.002"),
        "options": NO_OPTIONS,
    }  # fmt: skip
    counts = {"attempt", "message_count", "tool_call_count", "model_call_count", "input_tokens",
              "output_tokens", "event_seq"}  # fmt: skip
    blank = {field.name: 0 if field.name in counts else None for field in fields(Execution)}
    return Execution(**{**blank, **known, **values})


def _event(kind: EventType, data: dict[str, Any], seq: int = 1) -> Event:
    return Event(_ID, seq, kind, _AT, 1, data)


def _approval(**values: Any) -> Approval:
    known: dict[str, Any] = {
        "kind": QuestionKind.TOOL, "title": "May it?", "status": ApprovalStatus.ANSWERED,
        "approved": True, "answered_by": "ada", "created_at": _AT, "on_expiry": OnExpiry.DENY,
    }  # fmt: skip
    return Approval(**{**{field.name: None for field in fields(Approval)}, **known, **values})


def _call(cost: str | None, model: str = "m", **more: Any) -> Event:
    data = {"provider": "p", "model": model, "input_tokens": 10, "output_tokens": 5,
            "cached_tokens": 0, "latency_ms": 7, "finish_reason": "stop", "cost": cost}  # fmt: skip
    return _event(EventType.MODEL_CALL, data | more)


def test_a_report_tells_what_was_started() -> None:
    child = _execution(task_name="check", status=Status.FAILED, input_tokens=3)

    text = markdown(_execution(), [], children=[child])

    assert "## Executions that it started" in text
    assert "| check | failed | 1.2 s | 3 in, 0 out | 0.002 |" in text
    assert "Started by" not in text
    assert f"- **Started by**: {_ID}" in markdown(_execution(parent_id=_ID), [])


def test_a_report_tells_what_was_done() -> None:
    execution = _execution(variables={"text": "a"}, result={"summary": "b"}, input_tokens=12)
    events = [
        _event(EventType.MESSAGE, {"role": "user", "content": "Summarise: a"}),
        _event(EventType.TOOL_CALL, {"id": "1", "tool": "Read", "arguments": {"path": "x"}}, 2),
        _event(EventType.TOOL_RESULT, {"id": "1", "tool": "Read", "ms": 12, "content": "y"}, 3),
        _event(EventType.COMPLETED, {}, 4),
    ]
    text = markdown(execution, events, [_approval(note="go on"), _approval(approved=False)])
    assert text.startswith("# summarise: completed\n\n- **Execution**: ")
    assert "- **Duration**: 1.2 s\n" in text
    assert "- **Execution**: 00000000-0000-0000-0000-000000000007\n" in text
    assert "- **Created**: 2026-11-22 03:04:05 UTC\n" in text
    assert "- **Tokens**: 12 in, 0 out\n" in text
    assert "- **Cost**: 0.002 US dollars\n" in text
    assert '## Variables\n\n```json\n{\n  "text": "a"\n}\n```' in text
    assert '## Result\n\n```json\n{\n  "summary": "b"\n}\n```' in text
    assert "## Conversation\n\n### user\n\n```\nSummarise: a\n```" in text
    assert "### Read answers after 12 ms\n\n```\ny\n```" in text
    assert '| 2 | Read | \\{"path":"x"\\} | 12 | ok |' in text
    assert "| tool | May it? | approved \\(go on\\) | ada |" in text
    assert "| denied | ada |" in text
    assert "1. 03:04:05 **message**" in text
    assert "## Error" not in text


def test_a_result_that_is_cut_off_is_marked() -> None:
    assert "## Result\n\n**Cut off**" in markdown(
        _execution(result="Once upon a", truncated=True), []
    )
    assert "Cut off" not in markdown(_execution(result="It ended."), [])


def test_model_calls_are_told_with_their_totals() -> None:
    events = [_call("0.5"), _call("0.25"), _call(None, "other")]
    text = markdown(_execution(), events)
    assert "| p/m | 2 | 20 | 10 | 0 | 0.75 |" in text
    assert "| p/other | 1 | 10 | 5 | 0 | unknown |" in text
    assert "| all | 3 | 30 | 15 | 0 | 0.75 and 1 without a price |" in text


def test_a_failure_is_told_with_its_traceback() -> None:
    text = markdown(
        _execution(
            status=Status.FAILED, error_code="agent_failed", error_message="no <luck>",
            error_details={"traceback": "Traceback:\n  x"},
        ),
        [],
    )  # fmt: skip
    assert "## Error\n\n**agent_failed**: no \\<luck\\>\n\n```\nTraceback:\n  x\n```" in text


def test_what_is_huge_is_cut_and_the_cut_is_told() -> None:
    long = "word " * 100_000
    events = [_event(EventType.MESSAGE, {"role": "user", "content": long}, n) for n in range(200)]
    text = markdown(_execution(result=long, error_message=long, event_seq=50_000), events)
    assert len(text) < 1_500_000
    assert "*480,000 more characters left out here.*" in text
    assert "more messages and tool calls are in the events.*" in text
    assert "*49,800 later events are left out here.*" in text


def test_characters_that_mislead_are_replaced() -> None:
    text = markdown(_execution(result="a\u202eb\x1b[31mc\r\nd\ue000"), [])
    assert "a\ufffdb\ufffd[31mc\nd\ue000" in text


def test_what_could_be_read_as_a_link_stays_escaped() -> None:
    text = markdown(_execution(task_name="http://127.0.0.1/x www.x.org a@b.org 1.5.2"), [])
    assert text.startswith(
        "# http://127\\.0\\.0\\.1/x www\\.x\\.org a@b\\.org 1\\.5\\.2: completed"
    )


_HOSTILE = st.text(alphabet="<>`#*_[]()!&\n\r ~-+.1|:x\\\"'\t\x0b\u2028{}", max_size=60)
_JSON: st.SearchStrategy[Any] = st.recursive(
    _HOSTILE | st.integers(-(2**63), 2**63 - 1) | st.none() | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_HOSTILE, inner, max_size=3),
    max_leaves=5,
)


def _hostile(name: str, content: str, value: Any) -> str:
    events = [
        _event(EventType.MESSAGE, {"role": name, "content": content, "clipped": name}),
        _event(EventType.TOOL_CALL, {"id": value, "tool": name, "arguments": value}),
        _event(EventType.TOOL_RESULT, {"id": value, "tool": name, "ms": value, "content": value}),
        _event(EventType.TOOL_CALL, {"name": name, "whatever": content}),
        _call("1", content, finish_reason=content),
        _event(EventType.CUSTOM, {"name": name, "data": value}),
    ]
    execution = _execution(
        task_name=name, variables={"text": content}, result=value or content,
        error_message=name or "x", error_code=name, error_details={"traceback": content},
        cancel_requested_by=name,
    )  # fmt: skip
    return markdown(execution, events, [_approval(title=name, note=content, value=value)])


@given(_HOSTILE, _HOSTILE, _JSON)
def test_nothing_that_others_wrote_becomes_markup(name: str, content: str, value: Any) -> None:
    tokens = MarkdownIt("commonmark").enable("table").parse(_hostile(name, content, value))
    kinds = {token.type for token in tokens}
    inner = {child.type for token in tokens for child in token.children or ()}
    assert {kind for kind in kinds if not kind.startswith(("table", "t", "th"))} <= {
        "heading_open", "heading_close", "inline", "bullet_list_open", "bullet_list_close",
        "list_item_open", "list_item_close", "paragraph_open", "paragraph_close", "fence",
        "ordered_list_open", "ordered_list_close",
    }  # fmt: skip
    assert inner <= {
        "text", "strong_open", "strong_close", "em_open", "em_close", "softbreak", "text_special",
    }  # fmt: skip
    headings = [token for token in tokens if token.type == "heading_open"]
    assert len(headings) == 13, "only those of the report itself"
    rows = [token for token in tokens if token.type == "tr_open"]
    assert len(rows) == 2 + 3 + 2 + 2, "one for each thing told, and the heads"


class _Tags(HTMLParser):
    """The tags and attributes of a page, as a browser would see them."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.attributes |= {name for name, _ in attrs}


@given(_HOSTILE, _HOSTILE, _JSON)
def test_nothing_that_others_wrote_becomes_html(name: str, content: str, value: Any) -> None:
    page = html(_hostile(name, content, value), title=name)
    tags = _Tags()
    tags.feed(page)
    assert tags.seen <= {
        "html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "ul", "ol", "li", "p",
        "strong", "em", "pre", "code", "table", "thead", "tbody", "tr", "th", "td",
    }  # fmt: skip
    assert tags.attributes <= {"lang", "charset", "http-equiv", "content", "name", "class", "start"}


def test_scripts_links_and_images_are_read_as_text() -> None:
    bad = "<script>alert(1)</script> [x](javascript:alert(1)) ![x](http://x/y.png) <http://x>"
    page = html(_hostile(bad, bad, bad), title=bad)
    assert "default-src 'none'; style-src 'sha256-" in page
    assert "<script" not in page
    assert "href" not in page
    assert "<img" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
