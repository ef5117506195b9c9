"""Thoughts that a model writes at the beginning of its answer, between `<think>` and `</think>`."""

from collections.abc import Iterator
from typing import Literal

_OPEN, _CLOSE = "<think>", "</think>"

Kind = Literal["content", "reasoning_content"]
Piece = tuple[Kind, str]


class InlineThinking:
    """Tells the thoughts of one answer from its text, however its pieces are cut.

    Only what an answer begins with counts: later tags are the text's own.
    """

    def __init__(self) -> None:
        self._state: Literal["begin", "thought", "gap", "text"] = "begin"
        self._held = ""

    def feed(self, text: str) -> Iterator[Piece]:
        """Yield what is certain by now."""
        text, self._held = self._held + text, ""
        if self._state == "begin":
            begun = text.lstrip()
            if not begun or (_OPEN.startswith(begun) and begun != _OPEN):
                self._held = text
                return
            if begun.startswith(_OPEN):
                self._state, text = "thought", begun.removeprefix(_OPEN)
            else:
                self._state = "text"
        if self._state == "thought":
            thought, closed, rest = text.partition(_CLOSE)
            if not closed:
                kept = _overlap(thought)
                thought, self._held = thought[: len(thought) - kept], thought[len(thought) - kept :]
                rest = ""
            else:
                self._state = "gap"
            if thought:
                yield "reasoning_content", thought
            text = rest
        if self._state == "gap":
            text = text.lstrip()
            if text:
                self._state = "text"
        if text and self._state == "text":
            yield from _as_text(text)

    def end(self) -> Iterator[Piece]:
        """Yield what was held back."""
        if self._held:
            kind: Kind = "reasoning_content" if self._state == "thought" else "content"
            yield kind, self._held
            self._held = ""


def _as_text(text: str) -> Iterator[Piece]:
    """Yield text; in two pieces where the model library would take it for a tag of its own."""
    cut = 1 if text in (_OPEN, _CLOSE) else 0
    if cut:
        yield "content", text[:cut]
    yield "content", text[cut:]


def _overlap(text: str) -> int:
    """Return how many characters at the end of `text` may begin the closing tag."""
    longest = min(len(text), len(_CLOSE) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(_CLOSE[:n])), 0)
