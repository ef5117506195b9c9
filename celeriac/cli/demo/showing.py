"""What the demo prints."""

import textwrap
from collections.abc import Mapping, Sequence
from uuid import UUID

from rich.console import Console
from rich.text import Text

from celeriac.cli.core.output import duration, plain, short
from celeriac.cli.demo.proof import Result
from celeriac.cli.workflows.tree import head_text, step_text
from celeriac.domain.executions.states import Status
from celeriac.kit.text import printable
from celeriac.kit.words import counted
from celeriac.wire import ExecutionSummary, Run

_LINE_CHARACTERS = 80
_RESULT_CHARACTERS = 400


class Progress:
    """Prints a line for each change of an execution, and the live output of the first.

    `labels` are the tasks and texts of the executions.
    """

    def __init__(self, console: Console, labels: Mapping[UUID, tuple[str, str]]) -> None:
        self.labels = labels
        self.streamed = " on ".join(next(iter(labels.values())))
        self.heard = False
        """Whether there was live output."""
        self._console = console
        self._seen: dict[UUID, tuple[Status, int]] = {}
        self._words = ""

    def update(self, states: Sequence[ExecutionSummary]) -> None:
        """Print what has changed."""
        for state in states:
            now = (state.status, state.attempt)
            if self._seen.get(state.id) != now:
                task, text = self.labels[state.id]
                self._print(f"{task:<14}{text:<22}{state.status.value:<10}attempt {state.attempt}")
            self._seen[state.id] = now

    def stream(self, words: str) -> None:
        """Print live output in lines of some words."""
        self.heard = True
        *lines, self._words = textwrap.wrap(
            self._words + words, _LINE_CHARACTERS, drop_whitespace=False
        ) or [""]
        for line in lines:
            self._print(f"live output   {self.streamed}: {line.strip()}")

    def end_stream(self) -> None:
        """Print the rest of the live output."""
        words, self._words = self._words.strip(), ""
        if words:
            self._print(f"live output   {self.streamed}: {words}")

    def _print(self, line: str) -> None:
        _print(self._console, f"  {line}")


def show_results(console: Console, results: Sequence[Result]) -> None:
    """Print each result by task, and what the events prove."""
    for task in dict.fromkeys(each["task"] for each in results):
        console.print(Text(f"\n{task}", style="bold underline"))
        for each in [each for each in results if each["task"] == task]:
            result = printable(short(plain(each["result"]), _RESULT_CHARACTERS))
            totals = (
                f"  {duration(each['duration_seconds'])}, "
                f"{counted(each['input_tokens'], 'token')} read, {each['output_tokens']} written, "
                f"{counted(each['attempts'], 'attempt')}"
            )
            parts = ((f"{each['text']}\n", "bold"), f"  {result}\n", (totals, "dim"))
            console.print(Text.assemble(*parts), soft_wrap=True)
    lost = sum(each["workers_lost"] > 0 for each in results)
    read = sum(each["input_tokens"] for each in results)
    written = sum(each["output_tokens"] for each in results)
    for line in (
        "",
        f"• {counted(len(results), 'execution')}, each completed exactly once by its own log.",
        f"• {lost} of them lost their worker on the way and were run again.",
        f"• {counted(read, 'token')} read and {written:,} written by a model on this machine.",
    ):
        _print(console, line)


def show_run(console: Console, run: Run, items: Mapping[str, Sequence[Result]]) -> None:
    """Print a run as a tree of its steps and their items, its result, and what its log proves."""
    console.print(Text(f"\n{head_text(run)}", style="bold underline"), soft_wrap=True)
    lines = []
    for step in run.steps:
        lines.append(f"  {step_text(step)}")
        for each in items[step.step]:
            lost = ", lost its worker on the way" if each["workers_lost"] else ""
            lines.append(
                f"      {each['text']:<20}{each['status'].value}, "
                f"{counted(each['attempts'], 'attempt')}{lost}"
            )
    lines += ["", f"  {short(plain(run.result), _RESULT_CHARACTERS)}", ""]
    first, last = (items[step.step] for step in run.steps)
    lost = sum(each["workers_lost"] > 0 for each in first)
    lines.append(
        f"• The step {run.steps[0].step} had {counted(len(first), 'item')}, each completed exactly "
        f"once; {lost} of them lost their worker and were run again."
    )
    lines.append(
        f"• The step {run.steps[1].step} began once, after all of them: "
        f"{counted(len(last), 'execution')}."
    )
    for line in lines:
        _print(console, line)


def _print(console: Console, line: str) -> None:
    console.print(printable(line), markup=False, highlight=False, emoji=False, soft_wrap=True)
