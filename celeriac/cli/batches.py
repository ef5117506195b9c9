"""Running a task many times: the items of a batch, read from files of JSON lines."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from celeriac.cli.exits import UsageProblemError
from celeriac.cli.ids import short_id
from celeriac.cli.session import Session
from celeriac.cli.variables import parse_object, read_text

if TYPE_CHECKING:
    from celeriac.client.wishes import Wishes

SUFFIX = ".jsonl"
_ALLOWED = frozenset({"priority", "queue"})


def is_batch(files: Sequence[str]) -> bool:
    """Return whether one of the files holds many items: JSON lines."""
    return any(file.endswith(SUFFIX) for file in files)


def items_of(files: Sequence[str], shared: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the variables of each execution: one JSON object a line of the files of JSON lines.

    `shared` variables are part of each item and win. Raises UsageProblemError naming the line.
    """
    items = [{**item, **shared} for file in files for item in _lines(file)]
    if not items:
        raise UsageProblemError(f"There are no items in {', '.join(files)}.")
    return items


def _lines(file: str) -> Iterator[dict[str, Any]]:
    # not splitlines: JSON may hold other line ends, such as U+2028, in its texts
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if line.strip():
            yield parse_object(line, f"{file}, line {number}")


def run_batch(
    session: Session,
    task: str,
    items: Sequence[Mapping[str, Any]],
    wished: "Wishes",
    *,
    delay: float | None,
    key: str | None,
    others: Sequence[str],
) -> None:
    """Run the task once for each item, and print the executions' ids in the items' order.

    `others` are options that were given and mean something for one run only; they, and wishes
    beyond priority and queue, are a UsageProblemError.
    """
    given = {name: value for name, value in wished.items() if value and name not in _ALLOWED}
    if given or others:
        names = ", ".join([*others, *sorted(given)])
        raise UsageProblemError(
            f"A batch takes --priority, --queue, --delay and --idempotency-key only; not {names}."
        )
    accepted = session.client.executions.execute_batch(
        task,
        items,
        priority=wished.get("priority"),
        queue=wished.get("queue"),
        delay_seconds=delay,
        idempotency_key=key,
    )
    if session.output.as_json:
        session.output.json(accepted)
        return
    for execution_id in accepted.execution_ids:
        session.output.raw(str(execution_id))
    session.output.say(
        f"{accepted.count} executions; `celeriac executions list --batch {accepted.batch_id}` "
        f"lists them, `celeriac monitor {short_id(accepted.execution_ids[-1])}` follows the last."
    )
