"""Items of a batch, and the warning for queues without a worker."""

from pathlib import Path

import pytest

from celeriac.cli.core.output import UsageProblemError
from celeriac.cli.executions.run import is_batch, items_of, unserved
from celeriac.wire import CeleryHealth, Worker


def test_each_line_is_an_item_and_shared_variables_win(tmp_path: Path) -> None:
    file = tmp_path / "leads.jsonl"
    file.write_text('{"a": 1, "b": 1}\n\n{"a": "x\u2028y"}\r\n', encoding="utf-8")
    assert is_batch(["x.json", str(file)])
    assert items_of([str(file)], {"b": 2}) == [{"a": 1, "b": 2}, {"a": "x\u2028y", "b": 2}]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "There are no items"),
        ("{}\n[]", "line 2: there must be a JSON object"),
        ("{", "line 1"),
    ],
)
def test_a_line_that_is_no_item_is_named(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "leads.jsonl"
    file.write_text(text)
    with pytest.raises(UsageProblemError, match=words):
        items_of([str(file)], {})


def _worker(**values: object) -> Worker:
    (example, *_) = CeleryHealth.model_validate(CeleryHealth.example()).processes
    return example.model_copy(update=values)


def test_a_queue_without_a_live_worker_is_warned_of() -> None:
    ours = _worker(queues=["default"], consuming=True)
    words = unserved("nowhere", [ours, _worker(queues=["nowhere"], consuming=False)])
    assert words is not None
    assert "No live worker listens to the queue nowhere." in words
    assert "celeriac worker -Q nowhere" in words
    assert unserved("nowhere", [])
    assert unserved("default", [ours]) is None
    assert unserved("nowhere", [ours, _worker(queues=[], consuming=None)]) is None
