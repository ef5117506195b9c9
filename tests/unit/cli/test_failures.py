"""Failures as people read them."""

import pytest

from celeriac.cli.executions.notes import failure_text, own_frames

_TRACEBACK = """\
Traceback (most recent call last):
  File "/usr/lib/python3/site-packages/celeriac/services/executions/attempt.py", line 90, in run
    await runner.run()
    ^^^^^^^^^^^^^^^^^^
  File "/usr/lib/python3/site-packages/celeriac/agents/python/runner.py", line 12, in run
    return await call()
  File "/home/ada/celeriac/agents/shop.py", line 3, in score
    return leads["customer"]
           ~~~~~^^^^^^^^^^^^
KeyError: 'customer'
"""


def test_a_traceback_is_shown_without_our_own_frames() -> None:
    assert own_frames(_TRACEBACK).splitlines() == [
        "Traceback (most recent call last):",
        '  File "/home/ada/celeriac/agents/shop.py", line 3, in score',
        '    return leads["customer"]',
        "           ~~~~~^^^^^^^^^^^^",
        "KeyError: 'customer'",
    ]


@pytest.mark.parametrize("text", ["", "no traceback", "".join(_TRACEBACK.splitlines(True)[:6])])
def test_what_has_no_other_frames_stays_as_it_is(text: str) -> None:
    assert own_frames(text) == text


@pytest.mark.parametrize(
    ("code", "message", "kind", "shown"),
    [
        ("agent_failed", "'customer'", "KeyError", "KeyError: 'customer'"),
        ("agent_failed", "KeyError", "KeyError", "KeyError"),
        ("agent_failed", None, None, "The execution failed."),
        ("agent_failed_permanently", "never", "PermanentError", "never"),
    ],
)
def test_the_type_is_named_where_the_code_does_not_say_it(
    code: str, message: str | None, kind: str | None, shown: str
) -> None:
    assert failure_text(code, message, kind) == shown
