"""The demo's results, for people and for programs."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from celeriac.cli.core.output import Output, duration, plain, printable, short
from celeriac.cli.demo.work import Ended

_LONGEST = 400


def show_results(console: Console, ended: Sequence[Ended], seconds: float) -> None:
    """Print every result with what it took, and what the logs prove."""
    for task in dict.fromkeys(each.piece.task for each in ended):
        console.print(Text(f"\n{task}", style="bold underline"))
        for each in ended:
            if each.piece.task == task:
                console.print(_result(each), soft_wrap=True)
    console.print()
    for line in _conclusions(ended, seconds):
        console.print(f"• {line}", markup=False, highlight=False, soft_wrap=True)


def _result(each: Ended) -> Text:
    execution = each.execution
    text = Text(f"{each.piece.text}\n", style="bold")
    text.append(f"  {printable(short(plain(execution.result), _LONGEST))}\n", style="default")
    attempts = f"{each.proof.started} attempt{'s' if each.proof.started > 1 else ''}"
    text.append(
        f"  {duration(execution.duration_seconds)}, {execution.input_tokens} tokens read, "
        f"{execution.output_tokens} written, {attempts}",
        style="dim",
    )
    return text


def _conclusions(ended: Sequence[Ended], seconds: float) -> Sequence[str]:
    lost = sum(each.proof.lost > 0 for each in ended)
    read = sum(each.execution.input_tokens for each in ended)
    written = sum(each.execution.output_tokens for each in ended)
    return [
        f"{len(ended)} executions, each completed exactly once by its own log.",
        f"{lost} of them lost their worker on the way and were run again.",
        f"{read:,} tokens read and {written:,} written by a model on this machine.",
        f"{duration(seconds)} from the first request to the last result.",
    ]


def write_json(output: Output, ended: Sequence[Ended], seconds: float) -> None:
    """Write all of it as one JSON value."""
    output.json({"seconds": round(seconds, 3), "executions": [_as_json(each) for each in ended]})


def _as_json(each: Ended) -> dict[str, Any]:
    execution = each.execution
    return {
        "execution_id": execution.id,
        "task": each.piece.task,
        "text": each.piece.text,
        "status": execution.status.value,
        "result": execution.result,
        "duration_seconds": execution.duration_seconds,
        "input_tokens": execution.input_tokens,
        "output_tokens": execution.output_tokens,
        "attempts": each.proof.started,
        "workers_lost": each.proof.lost,
        "completed_events": each.proof.completed,
    }
